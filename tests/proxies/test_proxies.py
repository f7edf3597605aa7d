"""The client behind what stands between a hospital and the world: nginx, HAProxy and squid, as real programs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.client import Limits, ProxyRefused, Site
from relay.client.site import TransportName
from tests.client.test_relay import PASSWORD, TASKS, TIMEOUT_S, USER, first, user_on
from tests.proxies.programs import HOLD_BACK, UPGRADE, Program
from tests.support.relay import RelayProcess

QUICK = Limits(backoff_s=0.05, backoff_max_s=0.2, connect_s=TIMEOUT_S, open_s=2, poll_s=1, climb_s=0.3, climb_max_s=0.3)
STAY = Limits(backoff_s=0.05, backoff_max_s=0.2, connect_s=TIMEOUT_S, poll_s=1, climb_s=None)
SECRET = "proxy-secret"


@pytest.fixture(scope="module")
def relay() -> Iterator[RelayProcess]:
    """One with a keep-alive that is shorter than the patience of the proxies here."""
    with RelayProcess(settings={"STARFISH_PING_INTERVAL_S": "0.5"}) as relay:
        user_on(relay)
        yield relay


async def register(relay: RelayProcess) -> str:
    site = {"uid": str(uuid.uuid4()), "name": f"site-{uuid.uuid4()}", "description": "of a test"}
    async with httpx.AsyncClient(base_url=relay.url, auth=(USER, PASSWORD), trust_env=False) as http:
        (await http.post("/starfish/api/v1/sites/", json=site)).raise_for_status()
    return site["uid"]


def site_at(port: int, uid: str, *, scheme: str = "http", **options: Any) -> Site:
    defaults: dict[str, Any] = {"proxy": False, "limits": QUICK}
    return Site(f"{scheme}://127.0.0.1:{port}", user=USER, password=PASSWORD, uid=uid, **(defaults | options))


@asynccontextmanager
async def coordinator(relay: RelayProcess) -> AsyncIterator[tuple[Site, str, int]]:
    """A coordinator with no proxy before it, and its project."""
    async with asyncio.timeout(4 * TIMEOUT_S), site_at(relay.port, await register(relay)) as co:
        name = f"project-{uuid.uuid4()}"
        yield co, name, (await co.projects.create(name, tasks=TASKS))["id"]


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A port that takes requests and never answers."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_down_the_ladder_and_up_again_without_loss_or_repeat(relay: RelayProcess, silent: int) -> None:
    """nginx lets WebSockets through, strips the upgrade, lets no event stream through either, and then relents."""
    with Program("nginx", target=relay.port, listen="", location=UPGRADE) as nginx:
        async with coordinator(relay) as (co, name, project), site_at(nginx.port, await register(relay)) as pa:
            assert pa.transport == "websocket"
            await pa.projects.join(name)
            await first(co, lambda event: event.kind == "participant" and event.data["site"] == pa.uid)
            told: list[int | None] = []
            enough = asyncio.Event()
            telling = asyncio.create_task(tell_on(co, project, told, enough))
            hearing = asyncio.create_task(hear_until_the_end(pa))
            hold_back = HOLD_BACK.format(silent=silent)
            for location, transport in (("", "sse"), (hold_back, "poll"), (UPGRADE, "websocket")):
                await asyncio.to_thread(nginx.restart, location=location)
                await standing_on(pa, transport)
                assert (await pa.publish(project, "update", payload=transport.encode() * 1000)).offset
                assert [run["id"] for run in await pa.runs.list(project)] == []
            enough.set()
            await telling
            told.append((await co.publish(project, "command", data="end")).offset)
            assert await hearing == told
            updates = await co.history(project, kind="update")
            assert [event.payload for event in updates] == [b"sse" * 1000, b"poll" * 1000, b"websocket" * 1000]


async def standing_on(site: Site, transport: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while site.transport != transport or not site.connected:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


async def tell_on(site: Site, project: int, told: list[int | None], enough: asyncio.Event) -> None:
    while not enough.is_set():
        told.append((await site.publish(project, "command", data="go on")).offset)
        await asyncio.sleep(0.01)


async def hear_until_the_end(site: Site) -> list[int | None]:
    heard = []
    async for event in site.events():
        assert event.kind != "resync"
        if event.kind == "command":
            heard.append(event.offset)
            if event.data == "end":
                break
    return heard


async def test_what_kills_idle_connections_finds_none(relay: RelayProcess, caplog: pytest.LogCaptureFixture) -> None:
    """HAProxy, whose patience is shorter than the silence of this test, on each rung."""
    idle_s, silence_s = 2, 4
    rungs = ("websocket", "sse", "poll")
    caplog.set_level(logging.INFO, logger="relay.client")
    with Program("haproxy", target=relay.port, idle_s=idle_s) as haproxy:
        async with coordinator(relay) as (co, name, project), contextlib.AsyncExitStack() as stack:
            sites = [
                await stack.enter_async_context(
                    site_at(haproxy.port, await register(relay), transports=[rung], limits=STAY)
                )
                for rung in rungs
            ]
            for site in sites:
                await site.projects.join(name)
            control = asyncio.create_task(idle_through(haproxy.port, sites[0].uid, project))
            caplog.clear()
            await asyncio.sleep(silence_s)
            assert (await control).status_code == 504, "it has no patience with a request that is silent"
            sent = await co.publish(project, "command", data="after the silence")
            for site in sites:
                assert (await first(site, lambda event: event.kind == "command")).offset == sent.offset
                assert site.connected
            assert "not connected" not in caplog.text


async def idle_through(port: int, uid: str, project: int) -> httpx.Response:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", auth=(USER, PASSWORD), trust_env=False, timeout=TIMEOUT_S
    ) as http:
        headers = {"X-Starfish-Site": uid}
        path = f"/starfish/api/v1/projects/{project}/events/"
        head = await http.get(path, params={"after": 0}, headers=headers)
        params = {"after": head.headers["X-Starfish-Offset"], "wait": "30"}
        return await http.get(path, params=params, headers=headers)


@pytest.mark.parametrize("rung", ["websocket", "sse", "poll"])
async def test_payloads_get_through_what_takes_no_long_bodies(
    relay: RelayProcess, tmp_path: Path, rung: TransportName
) -> None:
    """nginx, which takes 300 KiB, hears a request to its end before it passes it on, and is ended in the middle."""
    data = random.Random(1).randbytes(20_000_000)
    limits = replace(STAY, inline_bytes=10_000, part_bytes=4_000_000)
    location = f"client_max_body_size 300k; {UPGRADE}"
    with Program("nginx", target=relay.port, listen="", location=location) as nginx:
        uid = await register(relay)
        async with (
            coordinator(relay) as (co, name, project),
            site_at(nginx.port, uid, transports=[rung], limits=limits) as pa,
        ):
            await pa.projects.join(name)
            half = asyncio.Event()

            def on_progress(done: int, total: int) -> None:
                if done > total // 2:
                    half.set()

            sending = asyncio.create_task(pa.send_update(project, data, on_progress=on_progress))
            await half.wait()
            await asyncio.to_thread(nginx.restart)
            await sending
            (event,) = await co.history(project, kind="update")
            assert (await event.save(tmp_path / "up")).read_bytes() == data
            sent = await co.send_update(project, data)
            event = await first(pa, lambda one: one.offset == sent.offset)
            half.clear()
            saving = asyncio.create_task(event.save(tmp_path / "down", on_progress=on_progress))
            await half.wait()
            await asyncio.to_thread(nginx.restart)
            assert (await saving).read_bytes() == data


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    """What a site trusts, and what nginx needs to be trusted."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate for the test behind squid")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    name = [
        "-subj",
        "/CN=relay",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([*make, *name], check=True, capture_output=True, timeout=30)
    context = ssl.create_default_context(cafile=str(certificate))
    return context, f" ssl; ssl_certificate {certificate}; ssl_certificate_key {key}"


async def test_out_of_a_hospital_through_a_proxy_that_wants_a_password(
    relay: RelayProcess,
    tls: tuple[ssl.SSLContext, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """squid with Basic authentication, CONNECT to nginx with TLS, to the relay: as the environment says, by each."""
    caplog.set_level(logging.DEBUG)
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    context, listen = tls
    shown = []
    with (
        Program("squid") as squid,
        Program("nginx", target=relay.port, listen=listen, location=UPGRADE) as nginx,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://anna:{SECRET}@127.0.0.1:{squid.port}")
        async with coordinator(relay) as (co, name, project):
            for rung in ("websocket", "sse", "poll"):
                uid = await register(relay)
                site = site_at(nginx.port, uid, scheme="https", proxy=True, ssl=context, transports=[rung])
                async with site:
                    await site.projects.join(name)
                    sent = await co.publish(project, "command", data=rung)
                    assert (await first(site, lambda event: event.kind == "command")).offset == sent.offset
                    large = await site.send_update(project, bytes(2 * 2**20))
                    update = await first(co, lambda event: event.offset == large.offset)  # noqa: B023
                    async with update.open() as stream:
                        assert await stream.read() == bytes(2 * 2**20)
                    shown.append(f"{site!r} {vars(site)!r} {vars(site._session)!r}")
        tunnels = [line for line in squid.said.splitlines() if f"CONNECT 127.0.0.1:{nginx.port} anna" in line]
        assert len(tunnels) >= 3
        for rung in ("websocket", "sse"):
            wrong = f"http://anna:not-the-{SECRET}@127.0.0.1:{squid.port}"
            uid = await register(relay)
            with pytest.raises(ProxyRefused) as caught:
                async with site_at(nginx.port, uid, scheme="https", proxy=wrong, ssl=context, transports=[rung]):
                    pass
            shown.append(f"{caught.value} {caught.value!r}")
    logged = [record.getMessage() for record in caplog.records]
    assert SECRET not in " ".join([*shown, *logged])
