"""Sites that are bound to client certificates: let in over a connection that shows one, at every door, and no other."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from relay.client import Forbidden, Limits, Site
from relay.config import BadSetting, load
from relay.core.site_certificates import MISSING
from relay.web import tls
from tests.support.relay import RelayProcess
from tests.web.test_tls import secure, write_certificate

API = "/starfish/api/v1"
LOGIN = ("owner", "a good password")
NOTICED_WITHIN_S = 10.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The relay's certificate, and those of two clients, each of which is its own authority."""
    home = tmp_path_factory.mktemp("certificates")
    for name in ("relay", "site", "other", "stranger"):
        (home / name).mkdir()
        write_certificate(home / name, name)
    (home / "clients.pem").write_bytes(b"".join((home / one / "cert.pem").read_bytes() for one in ("site", "other")))
    return home


@pytest.fixture(scope="module")
def relay(home: Path) -> Iterator[RelayProcess]:
    process = RelayProcess(settings=settings_of(home))
    try:
        process.start(ready=False)
        process.cli("user", "create", LOGIN[0], "--no-input", env={"STARFISH_USER_PASSWORD": LOGIN[1]})
        process.cli("user", "create", "free", "--no-input", env={"STARFISH_USER_PASSWORD": LOGIN[1]})
        yield process
    finally:
        process.remove()


def settings_of(home: Path) -> dict[str, str]:
    return {
        "STARFISH_TLS_CERT": str(home / "relay" / "cert.pem"),
        "STARFISH_TLS_KEY": str(home / "relay" / "key.pem"),
        "STARFISH_TLS_CLIENT_CA": str(home / "clients.pem"),
    }


def context_of(home: Path, shows: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(home / "relay" / "cert.pem"))
    if shows is not None:
        context.load_cert_chain(home / shows / "cert.pem", home / shows / "key.pem")
    return context


def http_of(relay: RelayProcess, home: Path, shows: str | None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=secure(relay), verify=context_of(home, shows), trust_env=False)


@pytest.fixture
async def ready(relay: RelayProcess, home: Path) -> None:
    async with http_of(relay, home, None) as http, asyncio.timeout(20):
        while True:
            try:
                if (await http.get("/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                assert relay.is_running, relay.log
            await asyncio.sleep(0.05)


async def new_site(relay: RelayProcess, name: str, owner: str = LOGIN[0]) -> tuple[str, str]:
    """The uid and a token of a new site."""
    made = await asyncio.to_thread(relay.cli, "site", "create", "--owner", owner, "--name", name)
    uid = made.stdout.strip()
    return uid, (await asyncio.to_thread(relay.cli, "token", "create", "--site", uid)).stdout.strip()


async def bind(relay: RelayProcess, home: Path, uid: str, shows: str = "site") -> str:
    pem = str(home / shows / "cert.pem")
    return (await asyncio.to_thread(relay.cli, "site-cert", "add", "--site", uid, "--cert", pem)).stdout.strip()


@pytest.fixture
async def bound(relay: RelayProcess, home: Path, ready: None) -> AsyncIterator[tuple[str, str]]:
    """The uid and the token of a site that is bound to `site`; afterwards to nothing."""
    uid, token = await new_site(relay, f"bound {uuid.uuid4()}")
    sha256 = await bind(relay, home, uid)
    yield uid, token
    await asyncio.to_thread(relay.cli, "site-cert", "remove", sha256, check=False)


@pytest.mark.parametrize("shows", [None, "other", "site"])
async def test_every_door_lets_in_who_shows_the_certificate_and_nobody_else(
    relay: RelayProcess, home: Path, bound: tuple[str, str], shows: str | None
) -> None:
    uid, token = bound
    bearer = {"Authorization": f"Bearer {token}"}
    own = {"X-Starfish-Site": uid}
    forged = bearer | {"X-SSL-Client-Cert": "x", "X-Client-Cert": (home / "site" / "cert.pem").read_text()[:20]}
    async with http_of(relay, home, shows) as http:
        blob = {"Tus-Resumable": "1.0.0", "Upload-Length": "1"}
        answers = [
            await http.post(f"{API}/hello/", headers=bearer, json={"type": "hello"}),
            await http.post(f"{API}/hello/", headers=forged, json={"type": "hello"}),
            await http.post(f"{API}/hello/", headers=own, auth=LOGIN, json={"type": "hello"}),
            await http.get(f"{API}/projects/1/events/", headers=bearer),
            await http.get(f"{API}/projects/1/events/", headers=bearer | {"Accept": "text/event-stream"}),
            await http.post(f"{API}/blobs/", headers=bearer | blob),
            await http.get(f"{API}/sites/", auth=LOGIN),
        ]
        statuses = [answer.status_code for answer in answers]
        if shows == "site":
            assert statuses[:5] == [200, 200, 200, 404, 404]
            assert 403 not in statuses
        else:
            assert statuses == [403] * len(statuses), [answer.text for answer in answers]
            assert MISSING in answers[0].text
            assert "Traceback" not in relay.log
        assert (await http.get("/health")).status_code == 200
        assert (await http.get(f"{API}/sites/", auth=("free", LOGIN[1]))).status_code == 200
    url = secure(relay).replace("https", "wss") + "/starfish/ws/v1"
    handshake = connect(url, ssl=context_of(home, shows), proxy=None, additional_headers=bearer)
    if shows == "site":
        async with handshake:
            return
    with pytest.raises(InvalidStatus) as refused:
        await handshake
    assert refused.value.response.status_code == 403


async def test_the_client_shows_it_on_every_rung_and_the_command_line_too(
    relay: RelayProcess, home: Path, bound: tuple[str, str], tmp_path: Path
) -> None:
    _, token = bound
    shown, hidden = context_of(home, "site"), context_of(home, None)
    async with Site(secure(relay), token=token, ssl=shown, proxy=False) as site:
        project = (await site.projects.create(f"bound {uuid.uuid4()}"))["id"]
    for rung in ("websocket", "sse", "poll"):
        async with Site(secure(relay), token=token, ssl=shown, proxy=False, transports=[rung]) as site:
            await site.publish(project, "command", data={"by": rung})
        limits = Limits(connect_s=5)
        with pytest.raises(Forbidden, match="bound to client certificates"):
            async with Site(secure(relay), token=token, ssl=hidden, proxy=False, transports=[rung], limits=limits):
                pass
    (tmp_path / "weights").write_bytes(b"w" * 2_000_000)
    send: tuple[str, ...] = ("send", str(tmp_path / "weights"), "--project", str(project), "--url", secure(relay))
    send += ("--ca", str(home / "relay" / "cert.pem"))
    own = ("--cert", str(home / "site" / "cert.pem"), "--key", str(home / "site" / "key.pem"))
    environment = {"STARFISH_TOKEN": token}
    done = await asyncio.to_thread(relay.cli, *send, *own, env=environment)
    assert int(done.stdout) > 0
    for words in ((), own[2:], ("--cert", "none.pem")):
        wrong = await asyncio.to_thread(relay.cli, *send, *words, env=environment, check=False)
        assert wrong.returncode == 1
        assert "Traceback" not in wrong.stderr


async def test_a_binding_ends_the_sessions_that_have_shown_none_and_leaves_the_others(
    relay: RelayProcess, home: Path, ready: None
) -> None:
    uid, token = await new_site(relay, "bound while connected", owner="free")
    url = secure(relay).replace("https", "wss") + "/starfish/ws/v1"
    bearer = {"Authorization": f"Bearer {token}"}
    async with (
        connect(url, ssl=context_of(home, "site"), proxy=None, additional_headers=bearer) as good,
        connect(url, ssl=context_of(home, None), proxy=None, additional_headers=bearer) as bad,
    ):
        for one in (good, bad):
            await one.send('{"type":"hello"}')
            assert "welcome" in str(await one.recv())
        sha256 = await bind(relay, home, uid)
        async with asyncio.timeout(NOTICED_WITHIN_S):
            await bad.wait_closed()
        assert bad.close_code == 4401
        await (await good.ping())
    again = await asyncio.to_thread(
        relay.cli, "site-cert", "add", "--site", uid, "--cert", str(home / "site" / "cert.pem"), check=False
    )
    assert "bound to this certificate" in again.stderr
    listed = (await asyncio.to_thread(relay.cli, "site-cert", "list", "--site", uid)).stdout
    assert sha256 in listed
    removed = await asyncio.to_thread(relay.cli, "site-cert", "remove", sha256.upper())
    assert "without a certificate now" in removed.stdout
    async with connect(url, ssl=context_of(home, None), proxy=None, additional_headers=bearer):
        pass
    record = (await asyncio.to_thread(relay.cli, "audit", "tail")).stdout
    assert "cert.add" in record
    assert "cert.remove" in record


async def test_a_certificate_of_no_such_authority_ends_the_handshake(
    relay: RelayProcess, home: Path, ready: None
) -> None:
    async with http_of(relay, home, "stranger") as http:
        with pytest.raises(httpx.TransportError):
            await http.get("/health")


# --- settings


@pytest.mark.parametrize(("required", "shows"), [(False, True), (True, True), (False, False), (True, False)])
async def test_required_is_refused_without_one(home: Path, required: bool, shows: bool) -> None:
    clients = tls.Clients(home / "clients.pem", required)
    certificates = tls.Certificates(home / "relay" / "cert.pem", home / "relay" / "key.pem", clients)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"in")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificates.context)
    port = server.sockets[0].getsockname()[1]
    context = context_of(home, "site" if shows else None)
    async with server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            received = await reader.read()
        except (ssl.SSLError, ConnectionError):
            received = b""
        assert received == (b"" if required and not shows else b"in")
        writer.transport.abort()


def test_authorities_that_cannot_be_read_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "nonsense.pem").write_text("nonsense")
    for name in ("none.pem", "nonsense.pem"):
        with pytest.raises(tls.BadCertificate, match=name):
            tls.load(home / "relay" / "cert.pem", home / "relay" / "key.pem", tls.Clients(tmp_path / name, False))


def test_settings_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(BadSetting, match="STARFISH_TLS_CERT"):
        load({"STARFISH_TLS_CLIENT_CA": "ca.pem"})
    with pytest.raises(BadSetting, match="STARFISH_TLS_CLIENT_CA"):
        load({"STARFISH_TLS_CLIENT_CERTS": "required"})
