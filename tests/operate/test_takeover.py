"""`import-starfish`: after it, the controllers of the old router go on as if nothing had happened."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import DATABASES
from tests.operate.old_router import CO_UID, PASSWORD, make
from tests.operate.shell import run
from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

API = "/starfish/api/v1"


@pytest.fixture(params=DATABASES)
def target(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[RelayProcess]:
    """A relay with nothing in it, not started."""
    relay = RelayProcess(postgres.create_database() if request.param == "postgresql" else None)
    yield relay
    relay.remove()


def taken(relay: RelayProcess, source: str, *more: str | Path) -> str:
    done = run("import-starfish", "--from", source, *more, url=relay.database_url, data_dir=relay.data_dir)
    assert done.status == 0, done.err
    return done.out


def counts(said: str, kind: str) -> tuple[str, str]:
    """What is said of a kind: how many are taken, how many were here."""
    line = next(line for line in said.splitlines() if f" {kind} " in line)
    _, new, here = (cell.strip() for cell in line.strip("│").split("│"))
    return new, here


@pytest.mark.parametrize("newer", [True, False], ids=["newest", "older"])
def test_polling_controllers_go_on(target: RelayProcess, postgres: Postgres, tmp_path: Path, newer: bool) -> None:
    media = tmp_path / "artifacts"
    source = make(postgres, media, newer=newer)
    dry = taken(target, source, "--media", media, "--dry-run")
    assert counts(dry, "runs") == ("2", "0")
    said = taken(target, source)
    assert [counts(said, kind) for kind in ("users", "sites", "projects", "participants")] == [
        ("3", "0"),
        ("2", "0"),
        ("3", "0"),
        ("2", "0"),
    ]
    assert "project 12 is now called 'project (12)'" in said
    assert "project 13 is now called 'study (13)'" in said
    again = taken(target, source, "--media", media)
    assert counts(again, "runs") == ("0", "2")
    assert counts(again, "files") == ("3", "0")
    assert "/etc/passwd is not in the folder" in again
    assert "lost.txt is not in the folder" in again
    third = taken(target, source, "--media", media)
    assert counts(third, "files") == ("0", "3")
    target.start()
    with httpx.Client(base_url=target.url + API, auth=("anna", PASSWORD), trust_env=False, timeout=30) as anna:
        controllers_go_on(anna, newer)
    wrong = httpx.get(f"{target.url}{API}/sites/", auth=("anna", "another"), trust_env=False)
    gone = httpx.get(f"{target.url}{API}/sites/", auth=("gone", PASSWORD), trust_env=False)
    assert wrong.status_code == gone.status_code == 403
    target.cli("audit", "verify")
    target.cli("blobs", "fsck")
    postgres.drop_database(source)


def controllers_go_on(anna: httpx.Client, newer: bool) -> None:
    """What they ask, by the ids and with the password that they have."""
    assert {(one["id"], one["uid"]) for one in anna.get("/sites/").json()["results"]} >= {(3, CO_UID)}
    run_ = anna.get("/runs/31/").json()
    assert (run_["project"]["id"], run_["batch"], run_["status"], run_["site_uid"]) == (
        11,
        1,
        "Pending Success",
        CO_UID,
    )
    assert run_["agent_advice"] == ({"try": "again"} if newer else {})
    assert anna.get("/runs/32/").json()["logs"] == ["32-1-1-logs.txt"]
    assert names(anna, run=32, type="logs") == {"32-1-1-logs.txt": b"it trained"}
    assert set(names(anna, run=31, type="artifacts", task_seq=1, round_seq=1).values()) == {b"weights" * 1000}
    moved = anna.put("/runs/32/status/", json={"status": 3})
    assert moved.status_code in (200, 202), moved.text
    made = anna.post("/sites/", json={"name": "new", "description": "of today", "uid": "9" * 8 + CO_UID[8:]})
    assert made.status_code == 201, made.text
    assert made.json()["id"] > 7


def names(anna: httpx.Client, **of: str | int) -> dict[str, bytes]:
    """The files in the zip that a download gives."""
    answer = anna.get("/runs-action/download/", params=of)
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_is_no_old_router_and_what_is_taken_by_others(postgres: Postgres, tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = run("import-starfish", "--from", postgres.url("postgres"), data_dir=data)
    assert done.status == 1
    assert "it has no table auth_user" in done.err
    source = make(postgres, tmp_path / "artifacts", newer=True)
    assert (
        run("user", "create", "anna", "--no-input", data_dir=data, env={"STARFISH_USER_PASSWORD": "Another-1"}).status
        == 0
    )
    assert run("site", "create", "--owner", "anna", "--name", "A", data_dir=data).status == 0
    done = run("import-starfish", "--from", source, data_dir=data)
    assert done.status == 0, done.err
    assert "anna" in run("user", "list", data_dir=data).out
    postgres.execute(
        "UPDATE starfish_site SET uid = gen_random_uuid() WHERE id = 7", database=source.rpartition("/")[2]
    )
    done = run("import-starfish", "--from", source, data_dir=data)
    assert done.status == 1
    assert "sites: 7 is" in done.err
    postgres.drop_database(source)
