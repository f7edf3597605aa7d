"""TLS by the relay itself: sockets behave as without it, certificates change without a restart, stalls are given up."""

from __future__ import annotations

import asyncio
import datetime
import signal
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from relay.client import Site
from relay.config import BadSetting, load
from relay.doctor.machine import _asked as asked
from relay.web import tls
from tests.support.relay import RelayProcess

HANDSHAKE_S = 1.0


def write_certificate(directory: Path, name: str = "relay") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs for itself, and its key; over those that are there."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(named, named, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), _loopback()]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / "cert.pem", directory / "key.pem"
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return cert_path, key_path


def _loopback() -> x509.IPAddress:
    return x509.IPAddress(ip_address("127.0.0.1"))


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    certificate, key = write_certificate(tmp_path, "first")
    settings = {
        "STARFISH_TLS_CERT": str(certificate),
        "STARFISH_TLS_KEY": str(key),
        "STARFISH_HEAD_TIMEOUT_S": str(HANDSHAKE_S),
        "STARFISH_OUTBOX_PATIENCE_S": "1",
    }
    process = RelayProcess(settings=settings)
    try:
        process.start(ready=False)
        yield process
    finally:
        process.remove()


@pytest.fixture
async def context(relay: RelayProcess, tmp_path: Path) -> ssl.SSLContext:
    """Trusts the relay's first certificate; once the relay is ready."""
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    async with httpx.AsyncClient(verify=context, trust_env=False) as http, asyncio.timeout(20):
        while True:
            try:
                if (await http.get(secure(relay) + "/health/ready")).status_code == 200:
                    break
            except httpx.TransportError:
                assert relay.is_running, relay.log
            await asyncio.sleep(0.05)
    return context


def secure(relay: RelayProcess) -> str:
    return f"https://{relay.host}:{relay.port}"


async def shown(relay: RelayProcess) -> str:
    """The name in the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(relay.host, relay.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return str(x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


async def becomes(relay: RelayProcess, name: str) -> None:
    async with asyncio.timeout(10):
        while await shown(relay) != name:  # noqa: ASYNC110 - another process tells by this alone
            await asyncio.sleep(0.02)


async def test_a_certificate_is_replaced_on_sighup_and_a_bad_one_is_not(
    relay: RelayProcess, context: ssl.SSLContext, tmp_path: Path
) -> None:
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert await shown(relay) == "first"
    assert relay.process is not None
    write_certificate(tmp_path, "second")
    assert await shown(relay) == "first"
    relay.process.send_signal(signal.SIGHUP)
    await becomes(relay, "second")
    (tmp_path / "cert.pem").write_text("nonsense")
    relay.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(10):
        while "the one before goes on" not in relay.log:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await shown(relay) == "second"
    assert relay.terminate() == 0


async def test_a_handshake_that_stalls_is_given_up_and_old_tls_refused(
    relay: RelayProcess, context: ssl.SSLContext
) -> None:
    reader, writer = await asyncio.open_connection(relay.host, relay.port)
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    async with asyncio.timeout(HANDSHAKE_S + 10):
        assert await reader.read() == b""
    writer.close()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(relay.host, relay.port, ssl=old)


async def test_events_fan_out_a_site_drains_and_hsts_is_said(relay: RelayProcess, context: ssl.SSLContext) -> None:
    tokens = await asyncio.to_thread(_tokens, relay, 3)
    goodbyes: list[str] = []
    payload = bytes(range(256)) * 4096
    lead, one, two = (
        Site(secure(relay), token=token, ssl=context, proxy=False, on_goodbye=lambda bye: goodbyes.append(bye.code))
        for token in tokens
    )
    async with lead, one, two:
        project = (await lead.projects.create("over TLS"))["id"]
        for site in (one, two):
            await site.projects.join("over TLS")
        for number in range(5):
            await lead.publish(project, "command", data={"number": number})
        await lead.publish(project, "command", payload=payload)
        for site in (one, two):
            seen = []
            async with asyncio.timeout(20):
                async for event in site.events():
                    if event.kind == "command":
                        seen.append(event.payload or event.data)
                    if len(seen) == 6:
                        break
            assert seen[-1] == payload
        async with httpx.AsyncClient(verify=context, trust_env=False) as http:
            assert "strict-transport-security" in (await http.get(secure(relay) + "/health")).headers
        assert await asyncio.to_thread(relay.terminate) == 0
    assert goodbyes.count("draining") == 3
    assert "Traceback" not in relay.log


async def test_a_file_is_sent_and_the_doctor_knows_the_relay(
    relay: RelayProcess, context: ssl.SSLContext, tmp_path: Path
) -> None:
    (token,) = await asyncio.to_thread(_tokens, relay, 1)
    async with Site(secure(relay), token=token, ssl=context, proxy=False) as lead:
        project = str((await lead.projects.create("over TLS"))["id"])
    (tmp_path / "weights").write_bytes(b"weights")
    send = ("send", str(tmp_path / "weights"), "--project", project, "--url", secure(relay))
    environment = {"STARFISH_TOKEN": token}
    done = await asyncio.to_thread(relay.cli, *send, "--ca", str(tmp_path / "cert.pem"), env=environment)
    assert int(done.stdout) > 0
    for more, words in ((["--ca", "none.pem"], "none.pem"), (["--ca", str(tmp_path / "weights")], "weights")):
        wrong = await asyncio.to_thread(relay.cli, *send, *more, env=environment, check=False)
        assert wrong.returncode == 1
        assert words in wrong.stderr
        assert "Traceback" not in wrong.stderr
    found = await asked(relay.host, relay.port)
    assert found is not None


async def test_a_reader_that_stays_stalled_is_closed_4410(relay: RelayProcess, context: ssl.SSLContext) -> None:
    lead_token, token = await asyncio.to_thread(_tokens, relay, 2)
    async with Site(secure(relay), token=lead_token, ssl=context, proxy=False) as lead:
        project = (await lead.projects.create("over TLS"))["id"]
        async with Site(secure(relay), token=token, ssl=context, proxy=False) as site:
            await site.projects.join("over TLS")
        url = secure(relay).replace("https", "wss") + "/starfish/ws/v1"
        headers = {"Authorization": f"Bearer {token}"}
        stalled = await connect(url, ssl=context, proxy=None, additional_headers=headers, max_size=2**24, max_queue=1)
        await stalled.send('{"type":"hello"}')
        assert "welcome" in str(await stalled.recv())
        for _ in range(24):
            await lead.publish(project, "command", payload=bytes(2**20))
        async with asyncio.timeout(20):
            while "code=4410" not in relay.log:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        stalled.transport.abort()
    assert "Traceback" not in relay.log


def _tokens(relay: RelayProcess, count: int) -> list[str]:
    relay.cli("user", "create", "owner", "--no-input", env={"STARFISH_USER_PASSWORD": "a good password"})
    tokens = []
    for number in range(count):
        uid = relay.cli("site", "create", "--owner", "owner", "--name", f"site {number}").stdout.strip()
        tokens.append(relay.cli("token", "create", "--site", uid).stdout.strip())
    return tokens


# --- files


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    key.chmod(0o644)
    with pytest.raises(tls.BadCertificate, match=r"got 0644: others can read it"):
        tls.load(certificate, key)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, _ = write_certificate(tmp_path)
    _, other = write_certificate(tmp_path / "other")
    for pair in ((certificate, other), (tmp_path / "none.pem", other), (certificate, tmp_path / "none.pem")):
        with pytest.raises(tls.BadCertificate):
            tls.load(*pair)


async def test_files_that_change_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "LOOK_EVERY_S", 0.01)
    certificates = tls.Certificates(*write_certificate(tmp_path))
    read = asyncio.Event()
    reload = certificates.reload

    def reloaded() -> bool:
        read.set()
        return reload()

    monkeypatch.setattr(certificates, "reload", reloaded)
    watching = asyncio.create_task(certificates.watch())
    write_certificate(tmp_path, "another")
    async with asyncio.timeout(10):
        await read.wait()
    watching.cancel()


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(BadSetting, match="STARFISH_TLS_KEY"):
        load({"STARFISH_TLS_CERT": "cert.pem"})
