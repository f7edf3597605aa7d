"""The command line, as a person and as a script use it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.postgres import Postgres
from tests.support.relay import RelayProcess

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n")
PASSWORD = {"STARFISH_USER_PASSWORD": "a good password", "STARFISH_SUPERUSER_PASSWORD": "a good password"}


@pytest.fixture
def shell(tmp_path: Path) -> RelayProcess:
    """The command line on an empty data directory, with no relay running."""
    return RelayProcess(data_dir=tmp_path)


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["token", "create"], ["user", "create"], ["site", "create"], ["demo"]]
)
def test_help_teaches(shell: RelayProcess, command: list[str]) -> None:
    done = shell.cli(*command, "--help")
    assert done.stdout.startswith("usage: starfish-relay")
    if not command:
        assert "a first session:" in done.stdout


def test_version(shell: RelayProcess) -> None:
    assert re.fullmatch(r"starfish-relay \d+\.\d+\.\d+\n", shell.cli("version").stdout)


def test_a_user_a_site_and_a_token_on_an_empty_directory(shell: RelayProcess) -> None:
    assert shell.cli("user", "create", "anna", "--no-input", env=PASSWORD).stdout == "created user anna\n"
    uid = shell.cli("site", "create", "--owner", "anna", "--name", "St. Anna").stdout
    assert UUID.fullmatch(uid)
    token = shell.cli("token", "create", "--site", uid.strip(), "--label", "first", "--expires-in", "90d").stdout
    assert re.fullmatch(r"sfr_[\w-]{43}\n", token)
    listed = shell.cli("token", "list").stdout
    assert "first" in listed
    assert "good" in listed
    assert token.strip() not in listed
    assert shell.cli("token", "revoke", token.strip()).stdout == "revoked\n"
    assert "revoked" in shell.cli("token", "list", "--site", uid.strip()).stdout


def test_a_token_is_revoked_by_its_id(shell: RelayProcess) -> None:
    shell.cli("user", "create", "anna", "--no-input", env=PASSWORD)
    uid = shell.cli("site", "create", "--owner", "anna", "--name", "A").stdout.strip()
    shell.cli("token", "create", "--site", uid)
    (token_id,) = re.findall(r"│ ([0-9a-f]{12}) │", shell.cli("token", "list").stdout)
    assert shell.cli("token", "revoke", token_id).stdout == "revoked\n"
    again = shell.cli("token", "revoke", token_id, check=False)
    assert again.returncode == 1
    assert "token list" in again.stderr


def test_an_operator(shell: RelayProcess) -> None:
    done = shell.cli("createsuperuser", "--username", "root", "--email", "r@example.org", "--no-input", env=PASSWORD)
    assert done.stdout == "created operator root\n"


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["user", "create", "anna", "--no-input"], {}, "STARFISH_USER_PASSWORD"),
        (["user", "create", "anna", "--no-input"], {"STARFISH_USER_PASSWORD": "short"}, "at least 8 characters"),
        (
            ["user", "create", "grandmother", "--no-input"],
            {"STARFISH_USER_PASSWORD": "GrandMother"},
            "it is the username",
        ),
        (["user", "create", "anna", "--no-input"], {"STARFISH_USER_PASSWORD": "Password123"}, "that are tried first"),
        (["user", "passwd", "nobody", "--no-input"], PASSWORD, "there is no user"),
        (["user", "enable", "nobody"], {}, "there is no user"),
        (["user", "create", "an:na", "--no-input"], PASSWORD, "without a colon"),
        (["site", "create", "--owner", "nobody", "--name", "A"], {}, "starfish-relay user create nobody"),
        (["token", "create", "--site", "11111111-1111-4111-8111-111111111111"], {}, "there is no such site"),
        (["token", "create", "--site", "x", "--expires-in", "soon"], {}, "such as 90d"),
        (["user", "disable", "nobody"], {}, "there is no user"),
        (["serve"], {"STARFISH_PORT": "http"}, "STARFISH_PORT: expected a whole number, got 'http'"),
        (["serve"], {"STARFISH_PORT": "0"}, "expected 1 to 65535"),
        (["serve"], {"DATABASE_URL": "mysql://x"}, "expected sqlite:///… or postgresql://…"),
        (["migrate"], {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "the database does not answer"),
    ],
)
def test_errors_say_what_is_wrong_in_one_or_two_lines(
    shell: RelayProcess, arguments: list[str], env: dict[str, str], says: str
) -> None:
    done = shell.cli(*arguments, env=env, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_a_name_that_is_taken_is_refused(shell: RelayProcess) -> None:
    shell.cli("user", "create", "anna", "--no-input", env=PASSWORD)
    done = shell.cli("user", "create", "anna", "--no-input", env=PASSWORD, check=False)
    assert (done.returncode, "exists" in done.stderr) == (1, True)


def test_check_config_lists_every_setting_without_secrets_and_finds_misspelt_ones(shell: RelayProcess) -> None:
    url = "postgresql://relay:hidden-password@db.example/starfish"
    done = shell.cli("check-config", env={"DATABASE_URL": url, "STARFISH_PROT": "1"}, check=False)
    assert done.returncode == 1
    assert "STARFISH_PROT is not a setting" in done.stderr
    assert "hidden-password" not in done.stdout + done.stderr
    assert "db.example" in done.stdout
    assert "STARFISH_OUTBOX_PATIENCE_S" in done.stdout


def test_the_old_routers_names_say_where_the_database_is(shell: RelayProcess) -> None:
    old = {
        "DATABASE_NAME": "star fish",
        "DATABASE_USER": "u",
        "DATABASE_PASSWORD": "p@ss",
        "DATABASE_HOST": "old.example",
    }
    done = shell.cli("check-config", env=old)
    assert "postgresql://u:…@old.example:5432/star%20fish" in done.stdout


def test_data_is_made_for_this_user_alone(shell: RelayProcess, tmp_path: Path) -> None:
    shell.cli("migrate", "--data-dir", str(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_environment_goes_before_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("STARFISH_PORT=8111\nSTARFISH_NODE=from-the-file\n")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("STARFISH_", "DATABASE_URL"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "relay", "check-config"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=inherited | {"STARFISH_PORT": "8222"},
    )
    assert "8222" in done.stdout
    assert "8111" not in done.stdout
    assert "from-the-file" in done.stdout


def test_serve_refuses_a_taken_port_at_once(shell: RelayProcess, tmp_path: Path) -> None:
    with RelayProcess() as other:
        done = shell.cli("serve", "--port", str(other.port), check=False)
    assert done.returncode == 1
    assert "is taken" in done.stderr
    assert "--port" in done.stderr


def test_serve_on_postgresql_refuses_an_old_schema_unless_told_to_migrate(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.create_database(empty=True)
    try:
        shell = RelayProcess(url, data_dir=tmp_path)
        done = shell.cli("serve", "--port", str(shell.port), check=False)
        assert done.returncode == 1
        assert "starfish-relay migrate" in done.stderr
        assert "applied 0001_core" in shell.cli("migrate").stdout
        assert "up to date" in shell.cli("migrate").stdout
        shell.start()
        assert shell.terminate() == 0
    finally:
        postgres.drop_database(url)


def test_check_site_status_lists_sites(shell: RelayProcess) -> None:
    shell.cli("user", "create", "anna", "--no-input", env=PASSWORD)
    uid = shell.cli("site", "create", "--owner", "anna", "--name", "St. Anna").stdout.strip()
    line = next(line for line in shell.cli("runjob", "check_site_status").stdout.splitlines() if uid in line)
    assert "Disconnected" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["journal", "keep", "1", "--size", "0"], "a number of bytes"),
        (["journal", "keep", "1", "--age", "soon"], "such as 90d"),
        (["site-key", "add", "--site", "00000000-0000-0000-0000-000000000000", "AAAA"], "32 bytes"),
    ],
)
def test_what_cannot_be_is_said_before_the_database_is_asked(
    shell: RelayProcess, arguments: list[str], says: str
) -> None:
    done = shell.cli(*arguments, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert not list(shell.data_dir.iterdir())


def test_what_the_command_line_does_is_in_the_audit_record(shell: RelayProcess) -> None:
    assert shell.cli("audit", "verify").stdout.startswith("0 entries")
    shell.cli("user", "create", "anna", "--no-input", env=PASSWORD)
    uid = shell.cli("site", "create", "--owner", "anna", "--name", "A").stdout.strip()
    token = shell.cli("token", "create", "--site", uid).stdout.strip()
    shell.cli("token", "revoke", token)
    shell.cli("user", "disable", "anna")
    lines = shell.cli("audit", "tail", "--lines", "4").stdout.splitlines()
    assert [line.split()[4] for line in lines] == ["site.create", "token.create", "token.revoke", "user.disable"]
    assert all(line.split()[3].startswith("shell:") for line in lines)
    assert token not in "".join(lines)
    exported = shell.cli("audit", "export", "--since", "1h").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in exported] == [1, 2, 3, 4, 5]
    assert shell.cli("audit", "export", "--since", "2999-01-01").stdout == ""
    last = json.loads(exported[-1])
    assert shell.cli("audit", "verify", "--anchor", f"5:{last['hash']}").stdout.startswith("5 entries")
    cut = shell.cli("audit", "verify", "--anchor", f"6:{last['hash']}", check=False)
    assert (cut.returncode, "an anchor names entry 6" in cut.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "verify", "--anchor", "6"], "an entry's number, a colon and its hash"),
        (["audit", "export", "--since", "yesterday"], "a date"),
        (["audit", "tail", "--lines", "-1"], "0 to 100000"),
    ],
)
def test_audit_commands_say_what_they_expect(shell: RelayProcess, arguments: list[str], says: str) -> None:
    done = shell.cli(*arguments, check=False)
    assert done.returncode == 1
    assert says in done.stderr


def test_users_are_listed_disabled_enabled_and_given_another_password(shell: RelayProcess) -> None:
    shell.cli("user", "create", "anna", "--email", "anna@example.org", "--no-input", env=PASSWORD)
    shell.cli("createsuperuser", "--username", "root", "--no-input", env=PASSWORD)
    shell.cli("site", "create", "--owner", "anna", "--name", "A")
    shell.cli("user", "disable", "anna")
    listed = shell.cli("user", "list").stdout
    anna, root = (next(line for line in listed.splitlines() if name in line) for name in ("anna", "root"))
    assert [word in anna for word in ("anna@example.org", "user", "1", "disabled")] == [True] * 4
    assert [word in root for word in ("operator", "0", "active")] == [True] * 3
    assert shell.cli("user", "enable", "anna").stdout == "enabled anna\n"
    assert "disabled" not in shell.cli("user", "list").stdout
    new = {"STARFISH_USER_PASSWORD": "another good password"}
    assert shell.cli("user", "passwd", "anna", "--no-input", env=new).stdout == "changed the password of anna\n"
    done = shell.cli("audit", "tail", "--lines", "3").stdout.splitlines()
    assert [line.split()[4] for line in done] == ["user.disable", "user.enable", "user.password"]


def test_the_scopes_of_a_token_are_listed_and_an_unknown_one_is_refused(shell: RelayProcess) -> None:
    shell.cli("user", "create", "anna", "--no-input", env=PASSWORD)
    uid = shell.cli("site", "create", "--owner", "anna", "--name", "A").stdout.strip()
    shell.cli("token", "create", "--site", uid)
    shell.cli("token", "create", "--site", uid, "--scope", "metrics", "--scope", "read-only")
    listed = shell.cli("token", "list").stdout
    assert "connect, publish" in listed
    assert "metrics, read-only" in listed
    done = shell.cli("token", "create", "--site", uid, "--scope", "everything", check=False)
    assert (done.returncode, "invalid choice" in done.stderr) == (2, True)
