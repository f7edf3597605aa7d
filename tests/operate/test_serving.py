"""One relay a SQLite file: the second one says who has it, and a lock never outlives its holder."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.serving import AlreadyServed, server_of, sole_server
from tests.support.relay import RelayProcess


def test_a_second_relay_on_the_same_file_says_who_serves_it(tmp_path: Path) -> None:
    with RelayProcess(data_dir=tmp_path) as first:
        second = RelayProcess(data_dir=tmp_path)
        try:
            second.start(ready=False)
            assert second.process is not None
            assert second.process.wait(20) == 1
            assert "relay.db is served already" in second.log
            assert f"process {first.pid} of " in second.log
            assert first.url in second.log
        finally:
            second.remove()
        first.cli("user", "list")
        assert first.health("ready") == 200


def test_a_relay_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with RelayProcess(data_dir=tmp_path) as relay:
        relay.kill()
        assert server_of(tmp_path / "relay.db") is None
        relay.start()
        assert server_of(tmp_path / "relay.db") is not None


def test_the_lock_ends_with_its_block(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    assert server_of(file) is None
    with sole_server(file, "http://127.0.0.1:1"):
        assert "http://127.0.0.1:1" in str(server_of(file))
        with pytest.raises(AlreadyServed, match=r"relay\.db is served already"), sole_server(file, "elsewhere"):
            pass
        assert "http://127.0.0.1:1" in str(server_of(file))
    assert server_of(file) is None


def test_what_stands_in_the_lock_is_not_trusted_to_be_readable(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    with sole_server(file, "here"):
        (tmp_path / "relay.db.lock").write_bytes(b"\xff[")
        assert "a process that has not said which" in str(server_of(file))
