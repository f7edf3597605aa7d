"""A relay that lies. Each lie is caught by its name, and what it would have shown is not shown."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from relay.client import Site
from relay.client.sealed import (
    Altered,
    BadAnnouncement,
    BadIdentity,
    CoordinatorChanged,
    Identity,
    KeyChanged,
    Misplaced,
    NoKey,
    NotAddressed,
    NotSealed,
    Replayed,
    SealError,
    WrongSender,
)
from relay.client.sealed import desk as desk_module
from relay.client.sealed.identity import ANNOUNCED_AS
from tests.e2e.conftest import Ward, first
from tests.e2e.hostile import Frame, HostileRelay


@dataclass(kw_only=True)
class Scene:
    """A participant behind the relay that lies; the coordinator and another participant are not."""

    co: Site
    pa: Site
    other: Site
    project: int
    run: int
    hostile: HostileRelay
    identities: dict[str, Identity]

    def lie(self, change: Callable[[Frame], Frame]) -> None:
        """Of the events that sites publish."""
        self.hostile.down = lambda frame: [change(frame) if is_published(frame) else frame]

    async def told(self, data: Any = "the truth", **options: Any) -> Any:
        """What the participant is shown of what the coordinator publishes."""
        await self.co.publish(self.project, "message", data=data, run=self.run, round=3, **options)
        return (await first(self.pa)).data

    async def refused(self, error: type[SealError], data: Any = "the truth", **options: Any) -> SealError:
        with pytest.raises(error) as caught:
            await self.told(data, **options)
        event = caught.value.event
        assert event is not None
        assert (event.data, event.payload) == (None, None)
        self.hostile.down = lambda frame: [frame]
        assert await self.told("the truth again") == "the truth again"  # and it goes on
        return caught.value


def is_published(frame: Frame) -> bool:
    return frame["type"] == "event" and frame["from"] is not None


def flipped(sealed: bytes, at: float) -> bytes:
    """One bit is another one, at a part of the length."""
    changed = bytearray(sealed)
    changed[int(at * (len(sealed) - 1))] ^= 4
    return bytes(changed)


@pytest.fixture
async def scene(ward: Ward, hostile: HostileRelay) -> AsyncIterator[Scene]:
    uids = await asyncio.gather(*(ward.register() for _ in range(3)))
    identities = {uid: ward.identity(uid) for uid in uids}
    async with ward.site(uids[0]) as co, ward.site(uids[1], by=hostile.url) as pa, ward.site(uids[2]) as other:
        project = await ward.found(co, pa, other)
        batch = await co.runs.start(project)
        run = next(run["id"] for run in batch["runs"] if run["site_uid"] == co.uid)
        scene = Scene(co=co, pa=pa, other=other, project=project, run=run, hostile=hostile, identities=identities)
        assert await scene.told("first use") == "first use"
        yield scene


CHANGED: dict[str, Callable[[Frame], Frame]] = {
    "kind": lambda frame: frame | {"kind": "command"},
    "another kind": lambda frame: frame | {"kind": "log"},
    "run": lambda frame: frame | {"run": frame["run"] + 1},
    "no run": lambda frame: frame | {"run": None, "batch": None},
    "batch": lambda frame: frame | {"batch": frame["batch"] + 1},
    "id": lambda frame: frame | {"id": str(uuid.uuid4())},
    "sender": lambda frame: frame | {"from": str(uuid.uuid4())},
    "no sender": lambda frame: frame | {"from": None},
}


@pytest.mark.parametrize("what", CHANGED)
async def test_an_event_is_the_one_that_was_sealed(scene: Scene, what: str) -> None:
    scene.lie(CHANGED[what])
    await scene.refused(Misplaced)


async def test_an_event_belongs_to_one_project(scene: Scene, ward: Ward) -> None:
    elsewhere = await ward.found(scene.co, scene.pa)
    scene.lie(lambda frame: frame | {"project": elsewhere, "offset": 50})
    await scene.refused(Misplaced)


@pytest.mark.parametrize("at", [0.0, 0.005, 0.01, 0.2, 0.4, 0.5, 0.6, 0.8, 0.99, 1.0])
async def test_a_flipped_bit_is_found(scene: Scene, at: float) -> None:
    def change(frame: Frame) -> Frame:
        sealed = base64.b64decode(frame["data"]["sealed"])
        return frame | {"data": {"sealed": base64.b64encode(flipped(sealed, at)).decode()}}

    scene.lie(change)
    await scene.refused(SealError)


@pytest.mark.parametrize("at", [0.3, 0.9])
async def test_a_flipped_bit_is_found_in_a_payload(scene: Scene, at: float) -> None:
    scene.hostile.down = lambda frame: [
        frame | {"payload": flipped(frame["payload"], at)} if "payload" in frame else frame
    ]
    await scene.co.publish(scene.project, "update", payload=bytes(200_000))
    with pytest.raises(Altered):
        await first(scene.pa)


async def test_a_payload_is_not_put_in_the_place_of_another(scene: Scene) -> None:
    held: list[Frame] = []

    def swap(frame: Frame) -> list[Frame]:
        if not is_published(frame):
            return [frame]
        held.append(frame)
        if len(held) < 2:
            return []
        one, two = held
        return [one | {"data": two["data"]}, two | {"data": one["data"]}]

    scene.hostile.down = swap
    for data in ("one", "two"):
        await scene.co.publish(scene.project, "message", data=data)
    for _ in range(2):
        with pytest.raises(Misplaced):
            await first(scene.pa)


async def test_an_event_that_was_shown_is_not_shown_again(scene: Scene) -> None:
    kept: list[Frame] = []

    def keep(frame: Frame) -> list[Frame]:
        kept.extend([frame] if is_published(frame) else [])
        return [frame]

    scene.hostile.down = keep
    assert await scene.told("once") == "once"
    (frame,) = kept
    for offset in (frame["offset"] + 1000, None):
        await scene.hostile.say(frame | {"offset": offset})
        with pytest.raises(Replayed):
            await first(scene.pa)


async def test_an_event_is_not_shown_again_to_who_comes_back(scene: Scene, ward: Ward) -> None:
    uid = scene.pa.uid
    assert await scene.told("once") == "once"
    await scene.pa.__aexit__(None, None, None)

    def rewind(frame: Frame) -> list[Frame]:
        if frame["type"] == "hello":
            return [frame | {"projects": {str(scene.project): {"offset": 0}}}]
        return [frame]

    scene.hostile.up = rewind
    async with ward.site(uid, by=scene.hostile.url) as again:
        await scene.co.publish(scene.project, "message", data="news")
        assert (await first(again)).data == "news"


async def test_nothing_is_shown_that_was_not_sealed(scene: Scene) -> None:
    scene.lie(lambda frame: frame | {"data": "a lie"})
    await scene.refused(NotSealed)
    await scene.hostile.say(
        {"type": "event", "project": scene.project, "offset": None, "id": "x", "kind": "command", "from": None,
         "at": "2026-11-24T10:00:00Z", "data": "obey"}
    )  # fmt: skip
    with pytest.raises(NotSealed):
        await first(scene.pa)


async def test_nothing_is_shown_of_an_event_whose_payload_is_said_to_be_elsewhere(scene: Scene) -> None:
    scene.lie(lambda frame: frame | {"data": "a lie", "size": 10})
    await scene.refused(NotSealed)


async def test_what_is_older_than_is_remembered_is_not_shown(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(desk_module, "SEEN_S", -60.0)
        await scene.co.publish(scene.project, "message", data="old")
        with pytest.raises(Replayed, match="not remembered"):
            await first(scene.pa)
    assert await scene.told() == "the truth"


async def test_what_was_sealed_for_another_is_not_taken(scene: Scene, ward: Ward) -> None:
    """The relay re-addresses what it cannot read."""
    frames: list[Frame] = []
    async with HostileRelay(ward.relay.url) as listening:

        def listen(frame: Frame) -> list[Frame]:
            frames.extend([frame] if is_published(frame) else [])
            return [frame]

        listening.down = listen
        async with ward.site(scene.other.uid, by=listening.url, sealed=False, start={scene.project: "new"}) as plain:
            await scene.co.publish(scene.project, "message", data="for the other one", to=[scene.other.uid])
            await first(plain)
    await scene.hostile.say(frames[-1] | {"offset": 10_000})
    with pytest.raises(NotAddressed):
        await first(scene.pa)


async def test_an_addressee_cannot_be_dropped_from_an_envelope(scene: Scene) -> None:
    def drop(frame: Frame) -> Frame:
        sealed = base64.b64decode(frame["data"]["sealed"])
        shorter = sealed.replace(f',"{scene.other.uid}"'.encode(), b"").replace(f'"{scene.other.uid}",'.encode(), b"")
        length = int.from_bytes(sealed[4:8], "big") - (len(sealed) - len(shorter))
        assert len(shorter) < len(sealed)
        shorter = shorter[:4] + length.to_bytes(4, "big") + shorter[8:]
        return frame | {"data": {"sealed": base64.b64encode(shorter).decode()}}

    scene.lie(drop)
    await scene.refused(Altered)


# --- lies about who is who: told to a coordinator


@dataclass(kw_only=True)
class Desk:
    """A coordinator behind the relay that lies, and two participants that are not."""

    co: Site
    one: Site
    other: Site
    project: int
    hostile: HostileRelay

    def lie(self, method: str, change: Callable[[Any], Any]) -> None:
        """In answers to a method."""
        refs: set[Any] = set()

        def up(frame: Frame) -> list[Frame]:
            if frame.get("method") == method:
                refs.add(frame["ref"])
            return [frame]

        def down(frame: Frame) -> list[Frame]:
            if frame["type"] == "ok" and frame["ref"] in refs:
                return [frame | {"result": change(frame["result"])}]
            return [frame]

        self.hostile.up, self.hostile.down = up, down

    async def look_again(self) -> None:
        """Somebody else joins: the coordinator asks the relay anew who takes part."""
        await self.other.projects.join(await self.other_name())
        await first(self.co, lambda event: event.kind == "participant" and event.data["site"] == self.other.uid)

    async def other_name(self) -> str:
        return str((await self.co.projects.list())[0]["project"]["name"])


@pytest.fixture
async def desk(ward: Ward, hostile: HostileRelay) -> AsyncIterator[Desk]:
    uids = await asyncio.gather(*(ward.register() for _ in range(3)))
    async with ward.site(uids[0], by=hostile.url) as co, ward.site(uids[1]) as one, ward.site(uids[2]) as other:
        project = await ward.found(co, one)
        await co.publish(project, "message", data="first use")
        assert (await first(one)).data == "first use"
        yield Desk(co=co, one=one, other=other, project=project, hostile=hostile)


async def test_a_key_is_not_exchanged_for_the_relays_own(desk: Desk) -> None:
    mallory = Identity.generate()
    desk.lie(
        "keys.get",
        lambda keys: keys | {desk.one.uid: {ANNOUNCED_AS: mallory.announcement(desk.one.uid)}},
    )
    await desk.look_again()
    with pytest.raises(KeyChanged, match=mallory.fingerprint):
        await desk.co.publish(desk.project, "message", data="a secret")


async def test_the_keys_of_two_sites_are_not_swapped(desk: Desk) -> None:
    desk.lie("keys.get", lambda keys: keys | {desk.one.uid: keys[desk.other.uid], desk.other.uid: keys[desk.one.uid]})
    await desk.look_again()
    with pytest.raises(BadAnnouncement):
        await desk.co.publish(desk.project, "message", data="a secret")


@pytest.mark.parametrize("how", ["no entry", "no keys"])
async def test_a_key_is_not_held_back(desk: Desk, how: str) -> None:
    empty: dict[str, Any] = {}
    desk.lie(
        "keys.get",
        lambda keys: (
            {uid: of for uid, of in keys.items() if uid != desk.one.uid}
            if how == "no entry"
            else keys | {desk.one.uid: empty}
        ),
    )
    await desk.look_again()
    with pytest.raises(NoKey, match=desk.one.uid):
        await desk.co.publish(desk.project, "message", data="for both")


async def test_an_addressee_that_the_relay_denies_is_missed(desk: Desk) -> None:
    desk.lie("keys.get", lambda keys: {uid: of for uid, of in keys.items() if uid != desk.one.uid})
    await desk.look_again()
    with pytest.raises(NoKey, match=desk.one.uid):
        await desk.co.publish(desk.project, "message", data="for one", to=[desk.one.uid])


async def test_another_site_is_not_made_the_coordinator(scene: Scene, ward: Ward) -> None:
    """A participant would seal its weights for it."""

    def promote(frame: Frame) -> list[Frame]:
        result = frame.get("result")
        if frame["type"] == "ok" and isinstance(result, list) and result and "role" in result[0]:
            result = [one for one in result if one["site"]["uid"] != scene.co.uid]
            impostor = result[0] | {"site": result[0]["site"] | {"uid": scene.other.uid}, "role": "coordinator"}
            return [frame | {"result": [*result, impostor]}]
        return [frame]

    uid = scene.pa.uid
    await scene.pa.__aexit__(None, None, None)
    scene.hostile.down = promote
    async with ward.site(uid, by=scene.hostile.url) as again:
        with pytest.raises(CoordinatorChanged):
            await again.publish(scene.project, "update", payload=b"the weights")


async def test_a_participant_does_not_speak_as_the_coordinator(scene: Scene) -> None:
    """What a participant has sealed, the relay shows to another one."""
    from datetime import UTC, datetime

    from relay.client.sealed import envelope

    other, pa = scene.identities[scene.other.uid], scene.identities[scene.pa.uid]
    for kind in ("command", "message"):
        id_ = str(uuid.uuid4())
        header = envelope.Header(
            project=scene.project, kind=kind, id=id_, sender=scene.other.uid, to=(scene.pa.uid,),
            key=other.public.id, at=datetime.now(UTC), content="json",
        )  # fmt: skip
        sealed = envelope.seal(header, b'"obey"', other, [pa.public])
        await scene.hostile.say(
            {"type": "event", "project": scene.project, "offset": None, "id": id_, "kind": kind,
             "from": scene.other.uid, "at": "2026-11-24T10:00:00Z",
             "data": {"sealed": base64.b64encode(sealed).decode()}}
        )  # fmt: skip
        with pytest.raises(WrongSender):
            await first(scene.pa)


async def test_a_site_is_not_told_that_it_is_another(scene: Scene, ward: Ward) -> None:
    uid = scene.pa.uid
    await scene.pa.__aexit__(None, None, None)
    scene.hostile.down = lambda frame: [
        frame | {"site": frame["site"] | {"uid": scene.other.uid}} if frame["type"] == "welcome" else frame
    ]
    with pytest.raises(BadIdentity):
        async with ward.site(uid, by=scene.hostile.url):
            pass


async def test_history_is_what_was_sealed_and_stands_where_it_stood(scene: Scene) -> None:
    assert await scene.told("once") == "once"

    def lie(change: Callable[[Frame], Frame]) -> None:
        def down(frame: Frame) -> list[Frame]:
            if isinstance(frame.get("result"), list):
                return [frame | {"result": [change(event) for event in frame["result"]]}]
            return [frame]

        scene.hostile.down = down

    found = await scene.pa.history(scene.project, kind="message")
    assert [event.data for event in found] == ["first use", "once"]
    for change, error in (
        (lambda event: event | {"offset": event["offset"] + 1}, Replayed),
        (lambda event: event | {"kind": "command"}, Misplaced),
        (lambda event: event | {"data": "a lie"}, NotSealed),
    ):
        lie(change)
        with pytest.raises(error):
            await scene.pa.history(scene.project, kind="message")
