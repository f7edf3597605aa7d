"""The objects of the contract (docs/protocol.md, section 4, and the polling API), by their exact fields."""

from __future__ import annotations

import re
from typing import Any

from tests.conformance.realm import Site
from tests.conformance.wire import Frame

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

STATUSES = (
    "Failed",
    "Pending Failed",
    "Standby",
    "Preparing",
    "Running",
    "Pending Success",
    "Pending Aggregating",
    "Aggregating",
    "Success",
)
"""The display strings, each at the place of its code."""

TERMINAL = ("Failed", "Success")

_AT = {"created_at", "updated_at"}
SITE = {"id", "name", "description", "uid", "status"} | _AT
PROJECT = {"id", "name", "description", "site", "batch", "tasks", "agent_config", "agent_log"} | _AT
PARTICIPATION = {"id", "site", "project", "role", "notes"} | _AT
RUN = {
    "id", "project", "batch", "participant", "role", "site_uid", "cur_seq", "status", "logs", "artifacts", "tasks",
    "middle_artifacts", "agent_advice", "agent_diagnosis",
} | _AT  # fmt: skip
EVENT = {"type", "project", "offset", "id", "kind", "from", "run", "batch", "at", "data"}
RUN_DATA = {"run", "site", "batch", "role", "status", "status_code", "cur_seq", "round"}
BATCH_DATA = {"batch", "status", "status_code", "reason"}
SUBSCRIPTION = {"type", "project", "role", "epoch", "offset", "from", "recovered", "online"}


def assert_times(thing: Frame) -> None:
    for name in _AT:
        assert TIMESTAMP.fullmatch(thing[name]), thing[name]


def assert_site(thing: Frame, site: Site) -> None:
    assert set(thing) == SITE
    assert (thing["id"], thing["uid"], thing["name"]) == (site.id, site.uid, site.name)
    assert thing["status"] in ("Connected", "Disconnected")
    assert_times(thing)


def assert_project(thing: Frame, **expected: Any) -> None:
    assert set(thing) == PROJECT
    assert {name: thing[name] for name in expected} == expected
    assert_times(thing)


def assert_participation(thing: Frame, site: Site, role: str, *extra: str) -> None:
    """A participation with its site and project whole; `extra` names fields that it has besides."""
    assert set(thing) == PARTICIPATION | set(extra)
    assert thing["role"] == role
    assert isinstance(thing["id"], int)
    assert_site(thing["site"], site)
    assert_project(thing["project"])
    assert_times(thing)


def assert_run(thing: Frame, **expected: Any) -> None:
    assert set(thing) == RUN
    assert {name: thing[name] for name in expected} == expected
    assert thing["status"] in STATUSES
    assert_times(thing)
