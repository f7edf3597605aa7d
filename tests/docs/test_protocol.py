"""docs/protocol.md: its examples are valid frames, its tables are the code's, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relay.core.keeper import Keeper
from relay.core.node import Limits
from relay.core.policy import Reason
from relay.core.receipts import Receipts
from relay.core.run_states import TRANSITIONS as RUN_TRANSITIONS
from relay.core.run_states import Status
from relay.core.session import EXPIRY_NOTICE_S
from relay.protocol import codec
from relay.protocol.envelope import Publish
from relay.protocol.errors import RECONNECT, CloseCode, ErrorCode
from relay.protocol.session import BAD_FRAME_WINDOW_S, BAD_FRAMES_ALLOWED, TRANSITIONS, Outcome, Session, Signal, State
from tests.docs.documents import DOCS, PROTOCOL, ROOT, Block, asyncapi, blocks, parse, table, violations
from tools.reference import PAGES

EXAMPLES = [block for block in blocks(PROTOCOL) if block.mark.startswith("schema: ")]
TO_RELAY = {"Hello", "Publish", "Ack", "Call", "Refresh"}


def named(block: Block) -> str:
    return f"{block.mark.removeprefix('schema: ')}-line-{block.line}"


# Examples


def test_every_json_block_is_marked_with_its_schema() -> None:
    for block in blocks(PROTOCOL):
        if block.language == "json":
            assert block.mark, f"line {block.line}: a frame needs a comment `schema: …` above it, other JSON `plain: …`"


def test_every_frame_of_the_protocol_has_an_example() -> None:
    messages = asyncapi()["components"]["messages"].values()
    payloads = {message["payload"]["$ref"].rpartition("/")[2] for message in messages} - {"Bytes"}
    headers = {"PublishHeader"}
    assert payloads | headers <= {block.mark.removeprefix("schema: ") for block in EXAMPLES}


@pytest.mark.parametrize("block", EXAMPLES, ids=named)
def test_an_example_is_valid_by_its_schema_and_has_no_field_that_is_not_described(block: Block) -> None:
    assert violations(block.mark.removeprefix("schema: "), parse(block.text)) == []


@pytest.mark.parametrize("block", [b for b in EXAMPLES if b.mark.removeprefix("schema: ") in TO_RELAY], ids=named)
def test_the_relay_reads_an_example_of_a_client_frame(block: Block) -> None:
    frame = codec.decode_text(block.text)
    assert type(frame).__name__ == block.mark.removeprefix("schema: ")


def test_the_relay_reads_the_example_of_a_binary_header() -> None:
    (header,) = (block.text.encode() for block in EXAMPLES if block.mark == "schema: PublishHeader")
    frame, payload = codec.decode_binary(len(header).to_bytes(4, "big") + header + b"\0weights")
    assert isinstance(frame, Publish)
    assert payload == b"\0weights"


def test_the_drawing_of_the_binary_frame_counts_right() -> None:
    (drawing,) = (block.text for block in blocks(PROTOCOL) if "big-endian" in block.text and not block.language)
    (hexed,) = re.findall(r"((?:[0-9a-f]{2} ){4})  7b 22", drawing)
    (said,) = re.findall(r"N = (\d+)", drawing)
    assert int.from_bytes(bytes.fromhex(hexed), "big") == int(said)


# Tables


def test_the_table_of_transitions_is_the_state_machine() -> None:
    signals = (Signal.HELLO, Signal.REQUEST, Signal.UNKNOWN, Signal.UNREADABLE)
    words = {
        Outcome.ACCEPT: "accepted",
        Outcome.REFUSE: "error",
        Outcome.REFUSE_AND_COUNT: "error bad_frame, counted",
        Outcome.CLOSE: "close 4400",
    }
    _, *rows = table(PROTOCOL, "transitions")
    assert [State[row[0]] for row in rows] == list(State)
    for name, *cells in rows:
        for signal, cell in zip(signals, cells, strict=True):
            outcome, _ = TRANSITIONS[State[name], signal]
            if State[name] is State.CLOSED:
                assert cell == "ignored"  # whoever drives the machine reads no more frames
            elif (State[name], signal) == (State.LIVE, Signal.HELLO):
                assert (outcome, cell) == (Outcome.REFUSE, "error invalid")
            else:
                assert cell == words[outcome], (name, signal)


def test_the_table_of_errors_has_the_relays_codes() -> None:
    _, *rows = table(PROTOCOL, "errors")
    assert [row[0] for row in rows] == list(ErrorCode)


def test_the_table_of_close_codes_says_what_the_code_does() -> None:
    _, *rows = table(PROTOCOL, "close codes")
    assert {CloseCode(int(row[0])): row[2] == "yes" for row in rows} == dict(RECONNECT)
    assert {row[2] for row in rows} == {"yes", "no"}


def test_the_table_of_reasons_has_the_relays_reasons() -> None:
    _, *rows = table(PROTOCOL, "reasons")
    assert [reason for row in rows for reason in row[0].split(", ")] == list(Reason)


def test_the_table_of_run_states_is_the_codes() -> None:
    _, *rows = table(PROTOCOL, "run states")
    by_name = {status.display: status for status in Status}
    described = {Status(int(code)): {by_name[name] for name in to.split(", ")} for code, _, to in rows}
    assert described == RUN_TRANSITIONS
    assert all(Status(int(code)).display == name for code, name, _ in rows)


def test_the_table_of_limits_has_the_codes_defaults() -> None:
    limits = Limits()
    said = {row[0].split(" (")[0]: row[1] for row in table(PROTOCOL, "limits")}
    assert said["text frame"] == f"{limits.text_bytes // 2**20} MiB"
    assert said["binary payload"] == f"{limits.payload_bytes // 2**20} MiB"
    assert said["header of a binary frame"] == f"{codec.MAX_HEADER_BYTES // 2**10} KiB"
    assert said["bad frames"] == f"{BAD_FRAMES_ALLOWED} within {BAD_FRAME_WINDOW_S:.0f} s"
    assert said["sessions of a site"] == str(limits.sessions_per_site)
    assert said["publishes of a session that wait for their commit"] == str(limits.publishes_in_flight)
    assert said["answers that wait for a slow socket"] == f"{limits.outbox.replies:,}"
    assert said["transient frames that wait for a slow socket"] == f"{limits.outbox.transients:,}"
    assert said["time without a byte taken by a full socket"] == f"{limits.outbox.patience_s:.0f} s"
    waiting = f"{limits.writer.queue_entries:,}, or {limits.writer.queue_bytes // 2**20} MiB"
    assert said["publishes that wait for the storage, all sessions together"] == waiting
    rate, mib = limits.rate, 2**20
    assert said["frames of a session"] == f"{rate.session_frames:,} a second"
    assert said["bytes of a session"] == f"{rate.session_bytes // mib} MiB a second"
    of_site = f"{rate.site_frames:,} and {rate.site_bytes // mib:,} MiB a second"
    assert said["frames, and bytes, of all sessions of a site"] == of_site
    assert said["frames refused as rate_limited"] == f"{rate.refusals} within {rate.window_s:.0f} s"
    assert said["notice before a token expires"] == f"{EXPIRY_NOTICE_S:.0f} s"


def test_the_other_numbers_of_the_prose_are_the_codes() -> None:
    text = PROTOCOL.read_text()
    presence = Limits().presence
    for said in (
        f"younger than {presence.heartbeat_s:.0f} s",
        f"is given {presence.grace_s:.0f} s",
        f"have {presence.restart_grace_s:.0f} s",
        f"newest {Receipts.PER_PROJECT:,} such events",
        f"buckets that hold {Limits().rate.burst_s:.0f} s' worth",
        f"within a moment ({Keeper.__init__.__defaults__[0] * 1000:.0f} ms)",  # type: ignore[index]
    ):
        assert said in text.replace("\n", " "), said


def test_a_session_counts_bad_frames_as_the_prose_says() -> None:
    session = Session(max_text_bytes=1024, max_payload_bytes=1024)
    session.receive('{"type":"hello"}', 0.0)
    session.welcomed()
    for _ in range(BAD_FRAMES_ALLOWED):
        session.receive("nonsense", 0.0)
    session.receive("nonsense", BAD_FRAME_WINDOW_S)  # the first nine are a minute old


# Links

LINKING = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
MADE = {(DOCS / path).resolve() for path in PAGES}
"""Pages that are made when the site is built, which sees that their anchors are there."""


def anchors(document: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_leads_nowhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists() or linked in MADE, target
        if anchor and linked not in MADE:
            assert anchor in anchors(linked), target
