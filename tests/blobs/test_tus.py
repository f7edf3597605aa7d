"""Uploads by tus 1.0: each status and header that the protocol names, and what is stored after each refusal."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from tests.blobs.tus import BLOBS, STREAM, Client, checksum, metadata, path_of, sha256
from tests.conformance.realm import API, Realm

DATA = os.urandom(700_000)


async def _client(realm: Realm) -> tuple[Client, int]:
    """A coordinator without sessions, and its project."""
    site = await realm.site()
    body = {"name": f"blobs of {site.name}", "description": "made by a test", "site": site.id, "tasks": []}
    response = await realm.rest("POST", "projects/", site.account, json=body)
    assert response.status_code == 201, response.text
    found = await realm.rest("GET", "projects/lookup/", site.account, params={"site_id": site.id})
    return Client(realm, site), found.json()[0]["project"]["id"]


async def test_what_is_supported_is_told_to_anybody(realm: Realm) -> None:
    response = await realm.rest("OPTIONS", BLOBS)
    assert response.status_code == 204
    assert response.headers["Tus-Version"] == "1.0.0"
    extensions = set(response.headers["Tus-Extension"].split(","))
    assert {"creation", "creation-with-upload", "checksum", "termination", "expiration", "concatenation"} <= extensions
    assert response.headers["Tus-Checksum-Algorithm"] == "sha256,sha1"
    assert int(response.headers["Tus-Max-Size"]) > 2**32


async def test_an_upload_from_creation_to_download(realm: Realm) -> None:
    client, project = await _client(realm)
    given = metadata(project=project, filename="weights.pt", sha256=sha256(DATA))
    created = await client.ask("POST", BLOBS, {"Upload-Length": str(len(DATA)), "Upload-Metadata": given})
    assert (created.status_code, created.headers["Tus-Resumable"]) == (201, "1.0.0")
    assert parsedate_to_datetime(created.headers["Upload-Expires"]) > datetime.now(UTC)
    assert created.headers["Location"].startswith(f"{realm.base_url}{API}/blobs/")
    path = path_of(created)

    head = await client.ask("HEAD", path)
    assert (head.status_code, head.headers["Cache-Control"]) == (200, "no-store")
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("0", str(len(DATA)))
    assert head.headers["Upload-Metadata"] == given

    first = await client.patch(path, 0, DATA[:300_000])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, "300000")
    assert "Upload-Expires" in first.headers
    last = await client.patch(path, 300_000, DATA[300_000:])
    assert (last.status_code, last.headers["Upload-Offset"]) == (204, str(len(DATA)))
    assert await client.offset(path) == len(DATA)
    assert (await client.get(path)).content == DATA


async def test_a_creation_may_bring_its_first_bytes(realm: Realm) -> None:
    client, project = await _client(realm)
    headers = {"Upload-Length": "10", "Upload-Metadata": metadata(project=project), "Content-Type": STREAM}
    created = await client.ask("POST", BLOBS, headers, content=b"01234")
    assert (created.status_code, created.headers["Upload-Offset"]) == (201, "5")
    done = await client.patch(path_of(created), 5, b"56789")
    assert done.status_code == 204
    assert (await client.get(path_of(created))).content == b"0123456789"


async def test_an_empty_blob_is_complete_at_once(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(0, project=project, sha256=sha256(b""))
    assert (await client.get(path)).content == b""


async def test_a_length_may_be_said_later(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(None, project=project)
    head = await client.ask("HEAD", path)
    assert head.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in head.headers
    assert (await client.patch(path, 0, b"abc")).status_code == 204
    assert (await client.patch(path, 3, b"de", Upload_Length="5")).headers["Upload-Offset"] == "5"
    assert (await client.get(path)).content == b"abcde"


@pytest.mark.parametrize(
    ("headers", "status", "field"),
    [
        ({"Tus-Resumable": ""}, 412, "Tus-Resumable"),
        ({"Tus-Resumable": "0.2.2"}, 412, "Tus-Resumable"),
        ({"Upload-Length": ""}, 400, "Upload-Length"),
        ({"Upload-Length": "-1"}, 400, "upload-length"),
        ({"Upload-Length": "ten"}, 400, "upload-length"),
        ({"Upload-Defer-Length": "1"}, 400, "Upload-Length"),
        ({"Upload-Length": "", "Upload-Defer-Length": "2"}, 400, "Upload-Defer-Length"),
        ({"Upload-Metadata": ""}, 400, "project"),
        ({"Upload-Metadata": metadata(project="one")}, 400, "project"),
        ({"Upload-Metadata": "project %%%"}, 400, "Upload-Metadata"),
        ({"Upload-Metadata": metadata(project=1, sha256="abc")}, 400, "sha256"),
        ({"Upload-Concat": "some"}, 400, "Upload-Concat"),
        ({"Upload-Checksum": "md5 MTIz"}, 400, "Upload-Checksum"),
    ],
)
async def test_a_creation_that_is_wrong_says_what_is(
    realm: Realm, headers: dict[str, str], status: int, field: str
) -> None:
    client = Client(realm, await realm.site())
    base = {"Upload-Length": "10", "Upload-Metadata": metadata(project=1)}
    response = await client.ask("POST", BLOBS, base | headers)
    assert response.status_code == status, response.text
    assert field in response.json()["error"]["details"]
    assert response.headers["Tus-Resumable"] == "1.0.0"
    if status == 412:
        assert response.headers["Tus-Version"] == "1.0.0"


async def test_what_is_longer_than_any_blob_is_refused(realm: Realm) -> None:
    client, project = await _client(realm)
    headers = {"Upload-Length": str(2**50), "Upload-Metadata": metadata(project=project)}
    response = await client.ask("POST", BLOBS, headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")


async def test_bytes_at_a_wrong_place_are_refused_and_the_right_place_is_told(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(10, project=project)
    await client.patch(path, 0, b"01234")
    for offset in (0, 4, 6):
        response = await client.patch(path, offset, b"xxx")
        assert (response.status_code, response.json()["error"]["details"]) == (409, {"offset": 5})
    assert await client.offset(path) == 5


async def test_a_patch_has_to_say_what_and_where(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(10, project=project)
    assert (await client.patch(path, 0, b"x", Content_Type="application/octet-stream")).status_code == 415
    assert (await client.patch(path, 0, b"x", Upload_Offset="")).status_code == 400
    assert (await client.patch(path, 0, b"x", Upload_Offset="-1")).status_code == 400
    assert (await client.patch(path, 0, b"x", Tus_Resumable="")).status_code == 412
    assert await client.offset(path) == 0


async def test_more_than_was_announced_is_refused(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(5, project=project)
    assert (await client.patch(path, 0, b"0123456789")).status_code == 413
    assert await client.offset(path) == 0

    async def chunked() -> object:
        yield b"01"
        yield b"23456789"

    assert (await client.patch(path, 0, chunked())).status_code == 413
    assert await client.offset(path) <= 2
    assert (
        await client.patch(path, await client.offset(path), b"01234"[await client.offset(path) :])
    ).status_code == 204
    assert (await client.patch(path, 5, b"")).status_code == 204
    assert (await client.patch(path, 5, b"6")).status_code == 413


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
async def test_a_piece_that_is_not_what_its_checksum_says_is_forgotten(realm: Realm, algorithm: str) -> None:
    client, project = await _client(realm)
    path = await client.create(len(DATA), project=project, sha256=sha256(DATA))
    half = len(DATA) // 2
    good = await client.patch(path, 0, DATA[:half], Upload_Checksum=checksum(DATA[:half], algorithm))
    assert good.status_code == 204
    spoilt = b"x" + DATA[half + 1 :]
    bad = await client.patch(path, half, spoilt, Upload_Checksum=checksum(DATA[half:], algorithm))
    assert bad.status_code == 460
    assert await client.offset(path) == half
    assert (await client.patch(path, half, b"x", Upload_Checksum="crc32 AAAA")).status_code == 400
    assert await client.offset(path) == half
    again = await client.patch(path, half, DATA[half:], Upload_Checksum=checksum(DATA[half:], algorithm))
    assert again.status_code == 204
    assert (await client.get(path)).content == DATA


async def test_a_whole_that_is_not_what_was_announced_is_dropped(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(3, project=project, sha256=sha256(b"abc"))
    response = await client.patch(path, 0, b"abd")
    assert (response.status_code, response.json()["error"]["code"]) == (460, "invalid")
    assert (await client.ask("HEAD", path)).status_code == 404
    assert (await client.get(path)).status_code == 404


async def test_an_upload_that_is_given_up_is_gone(realm: Realm) -> None:
    client, project = await _client(realm)
    for data in (b"", b"01234", b"0123456789"):
        path = await client.create(10, project=project)
        await client.patch(path, 0, data)
        assert (await client.ask("DELETE", path)).status_code == 204
        for method in ("HEAD", "PATCH", "DELETE"):
            headers = {"Content-Type": STREAM, "Upload-Offset": "0"}
            response = await client.ask(method, path, headers)
            assert response.status_code == 404
            assert "Upload-Offset" not in response.headers
        assert (await client.get(path)).status_code == 404


async def test_a_method_can_be_said_in_a_header(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(5, project=project)
    headers = {"Content-Type": STREAM, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert (await client.ask("POST", path, headers, content=b"01234")).status_code == 204
    assert (await client.get(path)).content == b"01234"
    assert (await client.ask("POST", path)).status_code == 405


async def test_parts_become_one_in_their_order(realm: Realm) -> None:
    client, project = await _client(realm)
    pieces = [DATA[:100_000], DATA[100_000:650_000], DATA[650_000:]]
    paths = []
    for piece in pieces:  # without any metadata, as tus-js-client does
        headers = {"Upload-Length": str(len(piece)), "Upload-Concat": "partial"}
        created = await client.ask("POST", BLOBS, headers)
        assert created.status_code == 201, created.text
        paths.append(path_of(created))
    assert (await client.ask("HEAD", paths[0])).headers["Upload-Concat"] == "partial"
    done = await asyncio.gather(*(client.patch(path, 0, piece) for path, piece in zip(paths, pieces, strict=True)))
    assert [one.status_code for one in done] == [204] * 3

    urls = [paths[0], str(realm.http.base_url.copy_with(path=paths[1])), paths[2]]
    given = metadata(project=project, filename="whole", sha256=sha256(DATA))
    final = await client.ask("POST", BLOBS, {"Upload-Concat": f"final;{' '.join(urls)}", "Upload-Metadata": given})
    assert final.status_code == 201, final.text
    path = path_of(final)
    head = await client.ask("HEAD", path)
    assert head.headers["Upload-Concat"] == f"final;{' '.join(urls)}"
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"] == str(len(DATA))
    assert (await client.patch(path, len(DATA), b"")).status_code == 403
    assert hashlib.sha256((await client.get(path)).content).hexdigest() == sha256(DATA)

    again = await client.ask("POST", BLOBS, {"Upload-Concat": f"final;{' '.join(urls)}", "Upload-Metadata": given})
    assert (again.status_code, path_of(again)) == (201, path)  # the first answer may have been lost
    assert {(await client.ask("HEAD", one)).status_code for one in paths} == {410}  # nobody needs the parts now


async def test_parts_that_are_not_there_whole_or_ones_own_make_nothing(realm: Realm) -> None:
    client, project = await _client(realm)
    other, _ = await _client(realm)
    created = await other.ask("POST", BLOBS, {"Upload-Length": "1", "Upload-Concat": "partial"})
    foreign = path_of(created)
    await other.patch(foreign, 0, b"x")
    unfinished = (await client.ask("POST", BLOBS, {"Upload-Length": "1", "Upload-Concat": "partial"})).headers[
        "Location"
    ]
    whole = await client.upload(b"whole", project)
    for part, status in (
        (foreign, 404),
        (unfinished, 400),
        (whole, 400),
        ("/elsewhere/1", 400),
        ("http://[", 400),
        ("", 400),
    ):
        headers = {"Upload-Concat": f"final;{part}", "Upload-Metadata": metadata(project=project)}
        assert (await client.ask("POST", BLOBS, headers)).status_code == status, part


async def test_two_who_write_at_one_place_do_not_mix(realm: Realm) -> None:
    client, project = await _client(realm)
    for _ in range(3):
        path = await client.create(len(DATA), project=project)
        answers = await asyncio.gather(*(client.patch(path, 0, DATA) for _ in range(3)))
        assert {answer.status_code for answer in answers} <= {204, 409, 413}
        offset = await client.offset(path)
        await client.patch(path, offset, DATA[offset:])
        assert (await client.get(path)).content == DATA


async def test_a_stalled_writer_gives_way_to_one_that_goes_on(realm: Realm) -> None:
    client, project = await _client(realm)
    path = await client.create(10, project=project)
    stall = asyncio.Event()

    async def stalling() -> object:
        yield b"01234"
        await stall.wait()
        yield b"never"

    first = asyncio.create_task(client.patch(path, 0, stalling()))
    while await client.offset(path) < 5:  # noqa: ASYNC110 - it is the relay that is waited for
        await asyncio.sleep(0.01)
    second = await client.patch(path, 5, b"56789")
    assert second.status_code == 204
    stall.set()
    assert (await first).status_code == 409
    assert (await client.get(path)).content == b"0123456789"
