"""The audit of the lock: a vulnerability fails, a service that is not reached says so, and a good answer is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import audit
from tools.audit import Verdict

GOOD = {"name": "uvicorn", "version": "0.54.0", "vulns": []}
BAD = {"name": "orjson", "version": "3.13.0", "vulns": [{"id": "GHSA-1", "fix_versions": ["3.13.1"]}]}
UNKNOWN = {"name": "rich", "skip_reason": "Dependency not found on PyPI and could not be audited: rich (15.0.0)"}


def report(*dependencies: object) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Verdict]:
    """What is answered next, in the place of pip-audit."""
    verdicts: list[Verdict] = []
    monkeypatch.setattr(audit, "ask", lambda: verdicts.pop(0))
    monkeypatch.setattr(audit, "SEEN", tmp_path / "seen")
    return verdicts


def test_a_vulnerability_fails_and_is_named(answers: list[Verdict], capsys: pytest.CaptureFixture[str]) -> None:
    answers += [audit.read(report(GOOD, BAD)), audit.read(report(GOOD, BAD, UNKNOWN))]
    assert audit.main() == 1
    assert "orjson 3.13.0: GHSA-1, fixed in 3.13.1" in capsys.readouterr().out
    assert audit.main() == 1, "what is not known of another one does not excuse it"


@pytest.mark.parametrize(
    ("said", "complaint", "words"),
    [
        ("", "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed", "nothing was audited: ERROR"),
        ("", "", "nothing was audited: no report"),
        (report(GOOD, UNKNOWN), "", "1 of 2 were not audited"),
    ],
)
def test_a_service_that_is_not_reached_is_one_line_and_no_failure(
    answers: list[Verdict], capsys: pytest.CaptureFixture[str], said: str, complaint: str, words: str
) -> None:
    answers += [audit.read(said, complaint)]
    assert audit.main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert words in line
    answers += [Verdict()]
    assert audit.main() == 0
    assert not answers, "what was not audited is asked for again"


def test_a_good_answer_holds_for_the_same_lock(
    answers: list[Verdict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers += [audit.read(report(GOOD)), Verdict()]
    assert [audit.main(), audit.main()] == [0, 0]
    assert len(answers) == 1
    monkeypatch.setattr(audit, "LOCK", tmp_path / "lock")
    (tmp_path / "lock").write_text("another==1")
    assert audit.main() == 0
    assert not answers
