"""`starfish-relay keys`, with the client alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay.cli import main
from relay.client.sealed import Identity, KeyChanged, Trust, Untrusted
from relay.client.sealed.trust import beside

UID, OTHER = "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a01", "0c6b8f6e-8f5c-4f63-9d0e-0f6d3a3c9a02"


def keys(path: Path, action: str, *arguments: str) -> int:
    return main(["keys", action, "--identity", str(path), *arguments])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity"


def test_an_identity_is_made_shown_and_rotated(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(path, "new") == 0
    first = capsys.readouterr().out.strip()
    assert first == Identity.load(path).fingerprint
    assert keys(path, "new") == 1
    assert "never overwritten" in capsys.readouterr().err
    assert keys(path, "fingerprint") == 0
    assert capsys.readouterr().out.strip() == first
    assert keys(path, "rotate") == 0
    assert capsys.readouterr().out.strip() == Identity.load(path).fingerprint != first


def test_sites_are_listed_and_trusted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(path, "new")
    anna, new, bert = Identity.generate(), Identity.generate(), Identity.generate()
    with Trust(beside(path)) as trust:
        trust.accept(UID, anna.chain)
        with pytest.raises(KeyChanged):
            trust.accept(UID, new.chain)
    with Trust(beside(path), first_use=False) as trust, pytest.raises(Untrusted):
        trust.accept(OTHER, bert.chain)
    capsys.readouterr()
    assert keys(path, "list") == 0
    listed = capsys.readouterr().out
    assert f"{UID}  {anna.fingerprint}  first use, 20" in listed
    assert f"{new.fingerprint}  refused: the relay shows this key since" in listed
    assert f"{OTHER}  {bert.fingerprint}  refused: not trusted yet" in listed
    assert keys(path, "fingerprint", UID) == 0
    assert capsys.readouterr().out.strip() == anna.fingerprint
    assert keys(path, "trust", UID, *bert.fingerprint.split()) == 1
    assert "shown no such key" in capsys.readouterr().err
    assert keys(path, "trust", UID, *new.fingerprint.split(), "--coordinates", "12") == 0
    assert keys(path, "trust", OTHER, bert.fingerprint.replace(" ", "")) == 0
    assert "by hand" in capsys.readouterr().out
    with Trust(beside(path)) as trust:
        assert trust.accept(UID, new.chain) == new.public
        assert trust.coordinator(12) == UID
        assert not trust.strangers()


@pytest.mark.parametrize("arguments", [("list",), ("fingerprint", UID), ("trust", UID, "12345"), ("rotate",)])
def test_what_is_not_there_is_said(path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert keys(path, *arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_file_that_others_can_read_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(path, "new")
    path.chmod(0o644)
    assert keys(path, "fingerprint") == 1
    assert "chmod 600" in capsys.readouterr().err


PROGRAM = """
import sys
for name in {absent!r}:
    sys.modules[name] = None  # as if it were not installed: importing it fails
from relay.cli import main
sys.exit(main(["keys", "new"]))
"""
SERVER = ["starlette", "uvicorn", "databases", "sqlalchemy", "rich", "orjson", "uvloop", "argon2", "aiosqlite"]


@pytest.mark.parametrize(("absent", "code", "said"), [(SERVER, 0, ""), (["pyrage"], 1, "starfish-relay[e2e]")])
def test_it_needs_no_server_but_says_what_it_needs(path: Path, absent: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(absent=absent)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"STARFISH_IDENTITY": str(path)},
    )
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert path.exists() == (code == 0)
