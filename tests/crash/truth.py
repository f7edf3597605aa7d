"""The journal as its coordinator reads it at the end, and what must hold between it and the sites' own records."""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.conformance.realm import Realm, listed
from tests.conformance.wire import PAYLOAD, Frame, Wire
from tests.crash.site import Correspondent, content

PAGE = 1000


async def correspondents(realm: Realm, rng: random.Random, url: str, participants: int = 2) -> list[Correspondent]:
    """A project whose members are about to correspond; the coordinator comes first."""
    team = await realm.team(participants)
    for wire in (team.co, *team.pas):
        await wire.close()
    return [
        Correspondent(
            site,
            url,
            team.project,
            team.head,
            random.Random(rng.random()),
            coordinator_uid=team.coordinator.uid,
            peers=[peer.uid for peer in team.participants] if site == team.coordinator else (),
        )
        for site in team.sites
    ]


async def journal(wire: Wire, project: int, after: int) -> list[Frame]:
    """All entries after an offset, with binary payloads as the bytes that they are."""
    entries: list[Frame] = []
    while page := listed(
        await wire.call("history.read", project=project, after=after, limit=PAGE, kind="message"), "events"
    ):
        entries += page
        after = page[-1]["offset"]
    for entry in entries:
        if isinstance(entry.get(PAYLOAD), str):
            entry[PAYLOAD] = base64.b64decode(entry[PAYLOAD])
    return entries


async def conclude(realm: Realm, sites: Sequence[Correspondent]) -> list[Frame]:
    """Has everything answered and shown, and compares; to be called while the sites are still at work.

    What was answered is stored, what was sent is stored once, and every site was shown exactly what it may see, in the
    journal's order. Returns the journal's entries.
    """
    for site in sites:
        site.stop_publishing()
    for site in sites:
        await site.all_answered()
    coordinator = sites[0]
    reader = await realm.session(coordinator.site)
    entries = await journal(reader, coordinator.project, coordinator.began)
    await reader.close()
    assert_stored(entries, sites)
    for site in sites:
        expected = [entry["id"] for entry in visible(entries, site) if entry["from"] != site.site.uid]
        await site.until(lambda site=site, ids=set(expected): ids <= site.seen_ids)  # type: ignore[misc]
        assert_shown(entries, site, expected)
    return entries


def assert_stored(entries: Sequence[Frame], sites: Sequence[Correspondent]) -> None:
    offsets = [entry["offset"] for entry in entries]
    assert offsets == sorted(set(offsets)), "the journal itself is out of order"
    twice = [id_ for id_, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    assert not twice, f"stored twice: {twice}"
    by_id: Mapping[str, Frame] = {entry["id"]: entry for entry in entries}
    for site in sites:
        lost = [id_ for id_ in site.answered if id_ not in by_id]
        assert not lost, f"{site}: answered, but not stored: {lost}"
        assert {id_: by_id[id_]["offset"] for id_ in site.answered} == site.answered, f"{site}: other offsets"
        stored = [entry for entry in entries if entry["from"] == site.site.uid]
        assert [content(entry)["n"] for entry in stored] == list(range(len(site.sent))), f"{site}: order of its own"
        assert all(content(entry) == content(site.sent[entry["id"]]) for entry in stored), f"{site}: other contents"
    assert len(entries) == sum(len(site.sent) for site in sites)


def visible(entries: Sequence[Frame], site: Correspondent) -> list[Frame]:
    """What a site may see: the coordinator all, a participant what is addressed to it and what it sent itself."""
    uid = site.site.uid
    if site.is_coordinator:
        return list(entries)
    return [
        entry
        for entry in entries
        if entry["from"] == uid or (entry["from"] == site.coordinator_uid and uid in (content(entry)["to"] or [uid]))
    ]


def assert_shown(entries: Sequence[Frame], site: Correspondent, others: Sequence[str]) -> None:
    """Everything by others, in order and once; of its own what a replay showed, in its place."""
    by_id = {entry["id"]: entry for entry in entries}
    shown = [event for event in site.seen if event["kind"] == "message"]
    assert [event["id"] for event in shown if event["from"] != site.site.uid] == list(others)
    assert {event["id"] for event in shown} <= {entry["id"] for entry in visible(entries, site)}
    for event in shown:
        entry = by_id[event["id"]]
        assert (event["offset"], event["at"], event["from"]) == (entry["offset"], entry["at"], entry["from"])
        assert content(event) == content(entry)
