"""docs/credentials.md: its numbers are the code's, and its commands make keys that the client and the relay read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from relay.client.keys import SiteKey
from relay.core import assertions, signing_keys
from relay.core.session import EXPIRY_NOTICE_S
from tests.docs.documents import DOCS, blocks

CREDENTIALS = DOCS / "credentials.md"


def test_the_numbers_are_the_codes() -> None:
    text = " ".join(CREDENTIALS.read_text().split())
    for said in (
        f"up to {signing_keys.PER_SITE} that are good",
        f"goes on for {assertions.DEFAULT_SESSION_S / 3600:.0f} h without a refresh",
        f"may differ by {assertions.SKEW_S} s",
        f"good for {assertions.LIFETIME_S} s at most",
        f"{EXPIRY_NOTICE_S:.0f} s before its credential expires",
    ):
        assert said in text, said


def test_a_key_that_openssl_makes_is_one(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (command,) = (block.text for block in blocks(CREDENTIALS) if "openssl" in block.text)
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    key = SiteKey.load(tmp_path / "relay.pem")
    assert signing_keys.thumbprint(signing_keys.read_public_key(done.stdout)) == key.id


def test_the_python_makes_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    making = next(block.text for block in blocks(CREDENTIALS) if "generate()" in block.text)
    exec(making.replace("/var/lib/site", str(tmp_path)), {})
    assert SiteKey.load(tmp_path / "relay.pem").public == capsys.readouterr().out.strip()
