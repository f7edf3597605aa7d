"""Downloads: conditional, in ranges, while the upload runs, by those who may, and of what has been damaged."""

from __future__ import annotations

import asyncio
import email
import os
import socket
import uuid
from collections.abc import AsyncIterator
from email.message import Message

import httpx
import pytest

from relay.web.ranges import Span, Unsatisfiable, wanted
from tests.blobs.tus import BLOBS, STREAM, Client, metadata, publish, reference, sha256
from tests.conformance.realm import Realm, Site, Team
from tests.support.relay import RelayProcess

DATA = os.urandom(600_000)


@pytest.fixture
async def team(realm: Realm) -> Team:
    return await realm.team(participants=2)


@pytest.fixture
async def client(realm: Realm, team: Team) -> Client:
    """The coordinator's."""
    return Client(realm, team.coordinator)


# Headers and ranges


async def test_a_download_says_what_it_is(team: Team, client: Client) -> None:
    path = await client.create(
        len(DATA), project=team.project, filename="../Gewichte für\n“alle”.pt", filetype="application/x-pytorch"
    )
    await client.patch(path, 0, DATA)
    whole = await client.get(path)
    assert (whole.status_code, whole.content) == (200, DATA)
    assert whole.headers["Content-Length"] == str(len(DATA))
    assert whole.headers["Content-Type"] == "application/x-pytorch"
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert whole.headers["Content-Disposition"] == (
        "attachment; filename=\"Gewichte f_r_alle_.pt\"; filename*=UTF-8''Gewichte%20f%C3%BCr%E2%80%9Calle%E2%80%9D.pt"
    )
    head = await client.realm.as_site("HEAD", path.removeprefix("/starfish/api/v1/"), client.site)
    same = ("ETag", "Content-Length", "Content-Type", "Content-Disposition", "Last-Modified", "Repr-Digest")
    assert {name: head.headers[name] for name in same} == {name: whole.headers[name] for name in same}


async def test_ranges_and_conditions(team: Team, client: Client) -> None:
    path = await client.upload(DATA, team.project)
    size = len(DATA)
    etag = (await client.get(path)).headers["ETag"]
    for given, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=1000-{size * 2}", 1000, size),
        ("bytes=0-99,50-199", 0, 200),
    ):
        part = await client.get(path, Range=given, If_Range=etag)
        assert (part.status_code, part.content) == (206, DATA[start:end]), given
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
    for given in ("bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=", "bytes=-"):
        assert (await client.get(path, Range=given)).status_code == 200, given
    beyond = await client.get(path, Range=f"bytes={size}-")
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    assert (await client.get(path, Range="bytes=0-9", If_Range='"another"')).content == DATA
    assert (await client.get(path, If_None_Match=f'"another", W/{etag}')).status_code == 304
    assert (await client.get(path, If_None_Match="*")).status_code == 304
    assert (await client.get(path, If_None_Match='"another"')).status_code == 200
    assert (await client.get(path, If_Match='"another"')).status_code == 412


async def test_several_ranges_come_in_parts(team: Team, client: Client) -> None:
    path = await client.upload(DATA, team.project)
    answer = await client.get(path, Range="bytes=500000-500009, 0-4,-3")
    assert answer.status_code == 206
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content)
    parts: list[Message] = message.get_payload()  # type: ignore[assignment]
    size = len(DATA)
    shown = [(part["Content-Range"], part.get_payload(decode=True)) for part in parts]
    assert shown == [
        (f"bytes 500000-500009/{size}", DATA[500000:500010]),
        (f"bytes 0-4/{size}", DATA[:5]),
        (f"bytes {size - 3}-{size - 1}/{size}", DATA[-3:]),
    ]


@pytest.mark.parametrize(
    ("given", "spans"),
    [
        ("bytes=0-4,10-14", [Span(0, 5), Span(10, 15)]),
        ("bytes=10-14,0-4", [Span(10, 15), Span(0, 5)]),
        ("bytes=10-14,0-9", [Span(0, 15)]),
        ("bytes=90-200,200-300", [Span(90, 100)]),
        ("bytes=-0,0-0", [Span(0, 1)]),
        ("bytes=-1000", [Span(0, 100)]),
        ("bytes=" + ",".join(f"{n}-{n}" for n in range(100)), None),
    ],
)
def test_ranges_are_read_as_the_rfc_has_them(given: str, spans: list[Span] | None) -> None:
    assert wanted({"range": given}, 100, '"e"', "") == spans


def test_a_range_without_a_byte_is_not_satisfied() -> None:
    for given in ("bytes=100-", "bytes=-0", "bytes=100-200,300-400"):
        with pytest.raises(Unsatisfiable):
            wanted({"range": given}, 100, '"e"', "")


# While the upload runs


async def _read(client: Client, path: str, wanted_bytes: int) -> tuple[bytes, AsyncIterator[bytes]]:
    """Open a download and take so many bytes; and the rest, for later."""
    request = client.realm.http.build_request(
        "GET", "/" + path.removeprefix("/starfish/api/v1/"), headers=client.site.headers
    )
    response = await client.realm.http.send(request, stream=True)
    assert response.status_code == 200
    chunks = response.aiter_raw()
    got = b""
    while len(got) < wanted_bytes:
        got += await anext(chunks)
    return got, chunks


async def test_a_download_follows_the_upload(team: Team, client: Client) -> None:
    path = await client.create(len(DATA), project=team.project)
    arrived = asyncio.Queue[bytes]()

    async def sending() -> AsyncIterator[bytes]:
        while piece := await arrived.get():
            yield piece

    uploading = asyncio.create_task(client.patch(path, 0, sending()))
    await arrived.put(DATA[:10])
    async with asyncio.timeout(20):
        got, rest = await _read(client, path, 10)
        for start in range(10, len(DATA), 200_000):
            piece = DATA[start : start + 200_000]
            await arrived.put(piece)
            last = start + len(piece) == len(DATA)
            while len(got) < start + len(piece) - last:  # the very last byte only when all is checked
                got += await anext(rest)
        await arrived.put(b"")
        assert (await uploading).status_code == 204
        async for piece in rest:
            got += piece
    assert got == DATA


async def test_a_part_of_what_has_arrived_needs_no_wait(team: Team, client: Client) -> None:
    path = await client.create(len(DATA), project=team.project)
    await client.patch(path, 0, DATA[:1000])
    part = await client.get(path, Range="bytes=10-99")
    assert (part.status_code, part.content) == (206, DATA[10:100])
    assert part.headers["Content-Range"] == f"bytes 10-99/{len(DATA)}"


@pytest.mark.parametrize("length", [len(DATA), None])
async def test_who_reads_along_sees_that_it_was_given_up(team: Team, client: Client, length: int | None) -> None:
    path = await client.create(length, project=team.project)
    await client.patch(path, 0, DATA[:1000])
    got, rest = await _read(client, path, 1000)
    assert got == DATA[:1000]
    assert (await client.ask("DELETE", path)).status_code == 204
    with pytest.raises(httpx.TransportError):
        async for _ in rest:
            pass


async def test_who_reads_along_is_not_given_a_whole_that_is_wrong(team: Team, client: Client) -> None:
    path = await client.create(3, project=team.project, sha256=sha256(b"abc"))
    await client.patch(path, 0, b"a")
    _, rest = await _read(client, path, 1)
    assert (await client.patch(path, 1, b"xx")).status_code == 460
    with pytest.raises(httpx.TransportError):
        async for _ in rest:
            pass


# Who may


async def test_a_blob_is_its_uploaders_until_an_event_addresses_it(realm: Realm, team: Team, client: Client) -> None:
    one, other = (Client(realm, site) for site in team.participants)
    stranger = Client(realm, await realm.site())
    path = await client.upload(DATA, team.project)
    for site in (one, other, stranger):
        for method in ("GET", "HEAD", "PATCH", "DELETE"):
            answer = await site.ask(method, path, {"Content-Type": STREAM, "Upload-Offset": "0"})
            assert answer.status_code == 404
    absent = await one.get(f"{BLOBS}{uuid.uuid4()}")
    assert absent.json() == (await one.get(path)).json()

    data = reference(path, DATA)
    answer = await publish(team, team.coordinator, realm, data, to=[one.site.uid], kind="command")
    assert answer.status_code == 201, answer.text
    event = await team.pas[0].expect("event", kind="command")
    assert event["data"] == data
    assert (await one.get(path)).content == DATA
    assert (await other.get(path)).status_code == 404
    assert (await stranger.get(path)).status_code == 404
    assert (await one.ask("DELETE", path)).status_code == 403
    assert (await client.ask("DELETE", path)).status_code == 409

    await publish(team, team.coordinator, realm, data, to="participants", kind="command")
    assert (await other.get(path)).content == DATA


async def test_an_update_of_a_participant_is_the_coordinators_alone(realm: Realm, team: Team, client: Client) -> None:
    one, other = (Client(realm, site) for site in team.participants)
    path = await one.upload(DATA, team.project)
    assert (await client.get(path)).status_code == 404
    offset = await team.pas[0].publish(team.project, kind="update", data=reference(path, DATA))
    event = await team.co.expect("event", offset=offset["offset"])
    assert event["data"]["blob"]["sha256"] == sha256(DATA)
    assert (await client.get(path)).content == DATA
    assert (await other.get(path)).status_code == 404


async def test_a_reference_says_the_truth_and_is_ones_own(realm: Realm, team: Team, client: Client) -> None:
    one = Client(realm, team.participants[0])
    path = await client.upload(DATA, team.project)
    other_team = await realm.team(participants=1)
    foreign = await Client(realm, other_team.coordinator).upload(DATA, other_team.project)
    good = reference(path, DATA)
    for sender, data, code in (
        (client, {"blob": good["blob"] | {"size": 1}}, "invalid"),
        (client, {"blob": good["blob"] | {"sha256": sha256(b"")}}, "invalid"),
        (client, {"blob": good["blob"] | {"id": str(uuid.uuid4())}}, "unknown_blob"),
        (client, {"blob": good["blob"] | {"id": "model"}}, "unknown_blob"),
        (client, reference(foreign, DATA), "unknown_blob"),
        (one, good, "unknown_blob"),
    ):
        answer = await publish(team, sender.site, realm, data)
        assert answer.json()["error"]["code"] == code, data
    for own in ({"blob": "of my own"}, {"blob": {"id": 7}}, ["blob"], {"text": '"blob"'}):
        assert (await publish(team, client.site, realm, own)).status_code == 201


async def test_an_event_may_refer_to_what_is_still_on_its_way(realm: Realm, team: Team, client: Client) -> None:
    one = Client(realm, team.participants[0])
    path = await client.create(len(DATA), project=team.project, sha256=sha256(DATA))
    await client.patch(path, 0, DATA[:1000])
    assert (await publish(team, client.site, realm, reference(path, DATA), kind="command")).status_code == 201
    reading = asyncio.create_task(one.get(path))
    assert (await client.patch(path, 1000, DATA[1000:])).status_code == 204
    assert (await reading).content == DATA


async def test_a_transient_event_gives_the_right_too(realm: Realm, team: Team, client: Client) -> None:
    one = Client(realm, team.participants[0])
    path = await client.upload(DATA, team.project)
    answer = await publish(team, client.site, realm, reference(path, DATA), kind="command", transient=True)
    assert answer.status_code == 201
    assert (await one.get(path)).content == DATA


async def test_who_leaves_the_project_leaves_its_blobs(realm: Realm, team: Team, client: Client) -> None:
    one = Client(realm, team.participants[0])
    own = await one.upload(b"my own", team.project)
    path = await client.upload(DATA, team.project)
    await publish(team, client.site, realm, reference(path, DATA), kind="command")
    assert (await one.get(path)).status_code == 200
    await team.pas[0].call("projects.leave", project=team.project)
    assert (await one.get(path)).status_code == 404
    assert (await one.get(own)).status_code == 404


async def test_who_is_removed_is_not_sent_the_rest_of_a_blob(realm: Realm, team: Team, client: Client) -> None:
    one = Client(realm, team.participants[0])
    path = await client.create(len(DATA), project=team.project)
    await client.patch(path, 0, DATA[:10])
    await publish(team, client.site, realm, {"blob": {"id": path.rpartition("/")[2]}}, kind="command")
    ended = asyncio.Event()

    async def sending() -> AsyncIterator[bytes]:
        for at in range(10, len(DATA) - 1):
            if ended.is_set():
                return
            yield DATA[at : at + 1]
            await asyncio.sleep(0.02)

    async with asyncio.timeout(20):
        got, rest = await _read(one, path, 10)
        await team.co.call("members.remove", project=team.project, site=one.site.uid)
        uploading = asyncio.create_task(client.patch(path, 10, sending()))
        with pytest.raises(httpx.RemoteProtocolError):
            assert not [piece async for piece in rest], "it was sent to its end"
        ended.set()
        await asyncio.gather(uploading, return_exceptions=True)
    assert got == DATA[:10]


async def test_who_joins_later_has_no_part_in_what_was_before(realm: Realm, team: Team, client: Client) -> None:
    path = await client.upload(DATA, team.project)
    await publish(team, client.site, realm, reference(path, DATA), kind="command")
    late = await realm.site()
    wire = await realm.session(late)
    await wire.call("projects.join", name=team.name)
    assert (await Client(realm, late).get(path)).status_code == 404
    await publish(team, client.site, realm, reference(path, DATA), kind="command")
    assert (await Client(realm, late).get(path)).status_code == 200


async def test_runs_are_the_sites_own(realm: Realm, team: Team) -> None:
    runs = await team.start()
    one = Client(realm, team.participants[0])
    for site, status in ((team.participants[0], 201), (team.participants[1], 404), (team.coordinator, 404)):
        run = runs[site.uid]["id"]
        headers = {"Upload-Length": "1", "Upload-Metadata": metadata(project=team.project, run=run)}
        assert (await one.ask("POST", BLOBS, headers)).status_code == status
    foreign = {"Upload-Length": "1", "Upload-Metadata": metadata(project=team.project)}
    answer = await Client(realm, await realm.site()).ask("POST", BLOBS, foreign)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_project")
    assert (await realm.rest("POST", BLOBS, headers=foreign | {"Tus-Resumable": "1.0.0"})).status_code == 401


# Links


async def test_a_link_needs_no_credentials_and_opens_one_blob_for_a_while(
    realm: Realm, team: Team, client: Client
) -> None:
    path, other = await client.upload(DATA, team.project), await client.upload(b"other", team.project)
    answer = await client.ask("POST", f"{path}/link/", json={"expires_in": 60})
    assert answer.status_code == 201
    url = httpx.URL(answer.json()["url"])
    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert (await anybody.get(url)).content == DATA
        assert (await anybody.get(url, headers={"Range": "bytes=0-4"})).content == DATA[:5]
        assert (await anybody.head(url)).headers["Content-Length"] == str(len(DATA))
        for wrong in (
            url.copy_with(path=other),
            url.copy_set_param("expires", "99999999999"),
            url.copy_set_param("expires", "soon"),
            url.copy_set_param("site", team.participants[0].uid),
            url.copy_set_param("signature", "é"),
        ):
            assert (await anybody.get(wrong)).status_code == 401
        assert (await anybody.delete(url, headers={"Tus-Resumable": "1.0.0"})).status_code == 401
    for given in (0, 3601, "long"):
        assert (await client.ask("POST", f"{path}/link/", json={"expires_in": given})).status_code == 400
    stranger = Client(realm, await realm.site())
    for body, status in ((b"[" * 2000, 400), (b" " * 5000, 413)):
        assert (await client.ask("POST", f"{path}/link/", content=body)).status_code == status
    assert (await stranger.ask("POST", f"{path}/link/")).status_code == 404


# What can go wrong


async def test_what_is_damaged_on_disk_is_not_passed_off_as_whole(
    relay: RelayProcess, team: Team, client: Client
) -> None:
    path = await client.upload(DATA, team.project)
    digest = sha256(DATA)
    stored = relay.data_dir / "files" / digest[:2] / digest[2:]
    stored.write_bytes(DATA[:300_000] + b"!" + DATA[300_001:])
    with pytest.raises(httpx.TransportError):
        await client.get(path)
    assert "damaged" in relay.log
    await client.upload(DATA, team.project)  # the same bytes, again: they take the place of the damaged ones
    assert (await client.get(path)).content == DATA


async def test_the_same_bytes_lie_there_once(realm: Realm, relay: RelayProcess, team: Team, client: Client) -> None:
    data = os.urandom(1000)
    one = Client(realm, team.participants[0])
    paths = [await client.upload(data, team.project), await one.upload(data, team.project)]
    assert paths[0] != paths[1]
    digest = sha256(data)
    assert (relay.data_dir / "files" / digest[:2] / digest[2:]).stat().st_nlink == 1
    assert (await client.ask("DELETE", paths[0])).status_code == 204
    assert (await one.get(paths[1])).content == data


async def test_a_reader_that_stalls_costs_little_and_nobody_else(realm: Realm, relay: RelayProcess, team: Team) -> None:
    client = Client(realm, team.coordinator)
    size = 64 * 1024 * 1024
    path = await client.create(size, project=team.project)

    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(size // 2**20):
            yield bytes(2**20)

    assert (await client.patch(path, 0, zeros())).status_code == 204
    before = relay.rss_bytes()
    stalled = [_stalled(relay, path, team.coordinator) for _ in range(8)]
    try:
        assert len((await client.get(path)).content) == size
        assert relay.rss_bytes() - before < 8 * 4 * 2**20
    finally:
        for one in stalled:
            one.close()


def _stalled(relay: RelayProcess, path: str, site: Site) -> socket.socket:
    """A download whose client has taken its first bytes, and takes no more."""
    one = socket.create_connection((relay.host, relay.port))
    headers = "".join(f"{name}: {value}\r\n" for name, value in site.headers.items())
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n".encode())
    assert one.recv(1)
    return one
