"""A running relay answers as docs/openapi.yaml says, whatever it is sent: requests are made up by schemathesis.

Ids that are made up would never be of anything, so half of them are those of things that there are. The long run is
behind the `soak` marker.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation.hypothesis.builder import HypothesisTestConfig, HypothesisTestMode, create_test
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.blobs.tus import STREAM
from tests.conformance.realm import API, TASKS, Account
from tests.docs.documents import DOCS
from tests.docs.test_openapi import operations
from tests.support.relay import RelayProcess

OWNER = Account(name="owner", password="the owner's password")
OPERATOR = Account(name="operator", password="the operator's password")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TIMEOUT_S = 30.0
OPERATORS = tuple(f"{API}/{resource}/" for resource in ("users", "groups", "status"))

Case: TypeAlias = "schemathesis.Case[Any]"

schemathesis.serializer.alias(STREAM, "application/octet-stream")
schema = schemathesis.openapi.from_path(DOCS / "openapi.yaml")


@dataclass(frozen=True, kw_only=True)
class World:
    """A relay with one of everything, and which ids these have: by the first part of a path, by field."""

    url: str
    session: requests.Session
    ids: dict[str, int]
    site_uid: str
    spare: dict[str, int]
    """A user and a group that may be changed; nobody logs in with them."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with RelayProcess() as relay:
        relay.cli("user", "create", OWNER.name, "--no-input", env={"STARFISH_USER_PASSWORD": OWNER.password})
        operator = ["--username", OPERATOR.name, "--email", "operator@example.org", "--no-input"]
        relay.cli("createsuperuser", *operator, env={"STARFISH_SUPERUSER_PASSWORD": OPERATOR.password})
        with (
            httpx.Client(base_url=relay.url + API, timeout=TIMEOUT_S, trust_env=False) as http,
            requests.Session() as session,
        ):
            session.trust_env = False
            yield furnished(relay.url, http, session)
        assert "request failed" not in relay.log, relay.log


def furnished(url: str, http: httpx.Client, session: requests.Session) -> World:
    def made(account: Account, method: str, path: str, body: Any = None) -> Any:
        response = http.request(method, path, json=body, headers={"Authorization": account.authorization})
        assert response.is_success, response.text
        return response.json() if response.content else None

    uid = str(uuid.uuid4())
    site = made(OWNER, "POST", "/sites/", {"uid": uid, "name": "north", "description": "a site"})["id"]
    project = {"name": "thyroid", "description": "a project", "site": site, "tasks": TASKS}
    made(OWNER, "POST", "/projects/", project)
    (part,) = made(OWNER, "GET", f"/projects/lookup/?site_id={site}")
    made(OWNER, "POST", "/runs", {"project": part["project"]["id"]})
    (run,) = made(OWNER, "GET", "/runs/active/")
    user = made(OPERATOR, "POST", "/users/", {"username": "spare"})
    group = made(OPERATOR, "POST", "/groups/", {"name": "spare"})
    ids = {"sites": site, "projects": part["project"]["id"], "project-participants": part["id"], "runs": run["id"]}
    names = {"site": site, "site_id": site, "project": ids["projects"], "run": run["id"], "offset": 1, "blob": 0}
    spare = {"users": number_in(user["url"]), "groups": number_in(group["url"])}
    return World(url=url, session=session, ids=ids | names, site_uid=uid, spare=spare)


def number_in(url: str) -> int:
    return int(url.rstrip("/").rpartition("/")[2])


LABELS = [f"{method} {path}" for path, method, _ in operations()]


@pytest.mark.parametrize("label", LABELS)
def test_every_answer_is_as_described(label: str, world: World) -> None:
    check(label, world, max_examples=5)


@pytest.mark.soak
@pytest.mark.parametrize("label", LABELS)
def test_every_answer_is_as_described_for_long(label: str, world: World) -> None:
    check(label, world, max_examples=500)


def check(label: str, world: World, *, max_examples: int) -> None:
    """Send what lies on the borders of the schema and beyond them, then so much that is made up."""

    def every_case(case: Case) -> None:
        send(case, world)

    method, path = label.split()
    modes = [HypothesisTestMode.EXAMPLES, HypothesisTestMode.COVERAGE, HypothesisTestMode.FUZZING]
    limits = settings(max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck))
    config = HypothesisTestConfig(project=schema.config, modes=modes, settings=limits)
    create_test(operation=schema[path][method], test_func=every_case, config=config)()


def send(case: Case, world: World) -> None:
    aim(case, world)
    account = OPERATOR if case.operation.path.startswith(OPERATORS) else OWNER
    headers = {"Authorization": account.authorization, "X-Starfish-Site": world.site_uid}
    case.call_and_validate(
        base_url=world.url,
        session=world.session,
        headers=headers,
        checks=CHECKS,
        timeout=TIMEOUT_S,
        allow_redirects=False,
    )


def aim(case: Case, world: World) -> None:
    """Have every other id be of something; keep what the test stands on."""
    resource = case.operation.path.removeprefix(f"{API}/").partition("/")[0]
    if resource in world.spare and case.path_parameters:
        case.path_parameters["id"] = world.spare[resource] if case.method != "DELETE" else 10**9
    elif case.path_parameters:
        known = world.ids | {"id": world.ids.get(resource, 0)}
        case.path_parameters = {
            name: 10**9 if case.method == "DELETE" else aimed(value, known.get(name, value))
            for name, value in case.path_parameters.items()
        }
    for part in (case.query, case.body):
        if isinstance(part, dict):
            part.update({name: aimed(part[name], world.ids[name]) for name in world.ids.keys() & part.keys()})
    if case.query and re.search(r"\d", str(case.query.get("wait", ""))):
        case.query["wait"] = 0  # nothing will come: it is not waited for


def aimed(value: Any, known: Any) -> Any:
    return known if isinstance(value, int) and value % 2 == 0 else value
