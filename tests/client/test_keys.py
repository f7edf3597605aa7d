"""A site's key: its file is its owner's alone, and nothing else of it is ever shown."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relay.client.keys import BadKeyFile, SiteKey
from relay.core.signing_keys import read_public_key, thumbprint

UID = "5f0c8f0e-0c51-4b1e-9d5f-2b8b6f1f9a10"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.pem"


def test_a_key_is_kept_in_a_file_of_its_owner_alone(path: Path) -> None:
    key = SiteKey.generate()
    before = os.umask(0)
    try:
        key.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = SiteKey.load(path)
    assert (again.id, again.public) == (key.id, key.public)


def test_a_key_is_never_overwritten(path: Path) -> None:
    SiteKey.generate().save(path)
    kept = path.read_bytes()
    with pytest.raises(FileExistsError):
        SiteKey.generate().save(path)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601])
def test_a_file_that_others_can_get_at_is_refused(path: Path, mode: int) -> None:
    SiteKey.generate().save(path)
    path.chmod(mode)
    with pytest.raises(BadKeyFile, match=f"{mode:04o}.*chmod 600"):
        SiteKey.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_without_a_key_is_refused(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(BadKeyFile, match="PEM"):
        SiteKey.load(path)


def test_a_key_of_another_kind_is_refused(path: Path) -> None:
    pem = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.touch(0o600)
    path.write_bytes(pem)
    with pytest.raises(BadKeyFile, match="Ed25519"):
        SiteKey.load(path)


def test_the_relay_reads_the_public_key_and_comes_to_the_same_id() -> None:
    key = SiteKey.generate()
    raw = read_public_key(key.public)
    assert thumbprint(raw) == key.id
    assert base64.b64encode(raw).decode() == key.public


def test_nothing_shows_the_private_key(path: Path) -> None:
    key = SiteKey.generate()
    key.save(path)
    secret = "".join(path.read_text().splitlines()[1:-1])
    shown = f"{key!r} {key} {vars(key)} {key.token('a', site=UID)!r} {key.assertion('a', site=UID)}"
    assert secret[22:] not in shown


def test_each_call_signs_anew_for_minutes() -> None:
    key = SiteKey.generate()
    token = key.token("https://relay.example", site=UID)
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public))
    first, second = (
        jwt.decode(token(), public, algorithms=["EdDSA"], audience="https://relay.example", issuer=UID)
        for _ in range(2)
    )
    assert first["jti"] != second["jti"]
    assert first["sub"] == UID
    assert first["exp"] - first["iat"] == 240
    assert abs(first["iat"] - time.time()) < 30


def test_keys_load_nothing_of_the_server() -> None:
    program = "import sys, relay.client.keys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert not {"jwt", "db", "starlette", "relay.core"} & set(done.stdout.split())
