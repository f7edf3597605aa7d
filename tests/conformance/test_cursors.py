"""`cursors.list` and `receipts.get` of docs/protocol.md: a coordinator sees who has got how far."""

from __future__ import annotations

from typing import Any

from tests.conformance.realm import Realm, Team
from tests.conformance.wire import Frame, Wire, new_id


async def standing(team: Team, wire: Wire | None = None) -> dict[str, Frame]:
    """The cursors by site uid, as a session sees them."""
    listed: list[Frame] = await (wire or team.co).call("cursors.list", project=team.project)
    return {one.pop("site"): one for one in listed}


async def acked(wire: Wire, team: Team, offset: int) -> None:
    """Acknowledges, and waits until the relay has read it."""
    await wire.ack(team.project, offset)
    assert await wire.is_alive()


async def test_a_coordinator_sees_how_far_each_site_is_and_what_it_lacks(realm: Realm) -> None:
    team = await realm.team(2)
    one, two = team.participants
    command = (await team.co.publish(team.project, kind="command"))["offset"]
    for wire in team.pas:
        await acked(wire, team, command)
    updates = [(await wire.publish(team.project, kind="update"))["offset"] for wire in team.pas]
    personal = (await team.co.publish(team.project, to=[two.uid]))["offset"]
    found = await standing(team)
    assert found[one.uid] == {"offset": command, "behind": personal - command, "unread": 0}
    assert found[two.uid] == {"offset": command, "behind": personal - command, "unread": 1}
    await acked(team.pas[1], team, personal)
    await acked(team.co, team, updates[0])
    found = await standing(team)
    assert found[two.uid] == {"offset": personal, "behind": 0, "unread": 0}
    assert found[team.coordinator.uid] == {"offset": updates[0], "behind": personal - updates[0], "unread": 1}


async def test_a_site_that_is_away_is_listed_with_what_waits_for_it(realm: Realm) -> None:
    team = await realm.team()
    await acked(team.pa, team, team.head)
    await team.pa.close()
    for _ in range(3):
        last = (await team.co.publish(team.project))["offset"]
    assert (await standing(team))[team.participant.uid] == {
        "offset": team.head,
        "behind": last - team.head,
        "unread": 3,
    }


async def test_a_participant_sees_itself_and_the_coordinator(realm: Realm) -> None:
    team = await realm.team(2)
    assert set(await standing(team, team.pa)) == {team.coordinator.uid, team.participant.uid}
    stranger = await realm.session(await realm.site())
    assert (await stranger.refused("cursors.list", project=team.project))["code"] == "unknown_project"


async def test_receipts_get_says_who_has_acknowledged_an_event(realm: Realm) -> None:
    team = await realm.team(2)
    one, two = team.participants
    event = (await team.co.publish(team.project))["offset"]
    personal = (await team.co.publish(team.project, to=[one.uid]))["offset"]

    async def receipts(offset: int) -> Any:
        return await team.co.call("receipts.get", project=team.project, offset=offset)

    assert await receipts(event) == {"offset": event, "acknowledged": [], "waiting": [one.uid, two.uid]}
    await acked(team.pas[1], team, event)
    assert await receipts(event) == {"offset": event, "acknowledged": [two.uid], "waiting": [one.uid]}
    await acked(team.pas[0], team, personal)
    assert await receipts(event) == {"offset": event, "acknowledged": [one.uid, two.uid], "waiting": []}
    assert await receipts(personal) == {"offset": personal, "acknowledged": [one.uid], "waiting": []}
    assert (await team.co.refused("receipts.get", project=team.project, offset=personal + 1))["code"] == "invalid"
    assert (await team.pa.refused("receipts.get", project=team.project, offset=event))["code"] == "forbidden"


async def test_a_receipt_is_not_told_again_to_a_publisher_that_comes_back(realm: Realm) -> None:
    """The project has been nobody's for a moment, and the acknowledgements come over REST, without a hello."""
    team = await realm.team()
    await team.pa.close()
    first = (await team.co.publish(team.project, receipts=True))["offset"]
    await ack_over_rest(realm, team, first)
    await team.co.expect("receipt", offset=first)
    await team.co.close()
    co = await realm.session(team.coordinator)
    second = (await co.publish(team.project, id=new_id(), receipts=True))["offset"]
    await ack_over_rest(realm, team, second)
    told = [frame["offset"] for frame in await co.until("receipt", offset=second) if frame["type"] == "receipt"]
    assert told == [second]


async def ack_over_rest(realm: Realm, team: Team, offset: int) -> None:
    response = await realm.as_site("POST", f"projects/{team.project}/ack/", team.participant, json={"offset": offset})
    assert response.status_code == 204, response.text
