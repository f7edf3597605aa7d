"""What the old router answered, request by request, is what the relay answers.

`examples.json` was recorded from the old router, on an empty database. It is a sample: what was asked between two of
its requests is filled in here (`BEFORE`). Status, content type, headers and body are the same, the keys of the body in
the same order; times, the host and random suffixes apart. Where the relay answers otherwise on purpose, `OTHERWISE`
says what, and why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.realm import TASKS, Account
from tests.conftest import DATABASES
from tests.legacy.conftest import empty_relay, make_operator, make_user
from tests.support.relay import RelayProcess

Json = Any

EXAMPLES: list[dict[str, Json]] = json.loads((Path(__file__).parent / "examples.json").read_text())
API = "/starfish/api/v1"
HOST = "http://router.example"
A_PAGE = "(a page)"

ACCOUNTS = {
    "admin": Account(name="admin", password="admin's password"),
    "bob": Account(name="bob", password="bob's password"),
    "ina": Account(name="ina", password="ina's password"),
    "nobody": Account(name="nobody", password="nobody's password"),
}

OLD_LOGIN = "basic YWRtaW46MTIzNA=="
"""A password of four characters, which the relay does not take for a new user."""

UID_B = "22222222-2222-4222-8222-222222222222"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request that the sample leaves out, and the status that it has."""

    method: str
    path: str
    status: int
    json: Json = None
    form: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def site(uid: str, name: str, description: str) -> Ask:
    return Ask(method="POST", path="/sites/", status=201, json={"uid": uid, "name": name, "description": description})


def heartbeat(uid: str, status: int) -> Ask:
    return Ask(method="POST", path="/sites/heartbeat/", status=202, json={"uid": uid, "status": status})


def status(run: int, **body: Json) -> Ask:
    return Ask(method="PUT", path=f"/runs/{run}/status/", status=202, json=body)


def patch(path: str, **body: Json) -> Ask:
    return Ask(method="PATCH", path=path, status=200, json=body)


def upload(run: int, task: object, round_: object, **files: tuple[str, str]) -> Ask:
    form = {"run": run, "task_seq": task, "round_seq": round_}
    return Ask(method="POST", path="/runs-action/upload/", status=200, form=form, files=files)


SECOND = {"name": "p-second", "description": "x", "site": 1, "tasks": TASKS}
JOIN_B = {"site": 2, "project": 5, "role": "PA", "notes": "n"}
FORM_SITE = {"uid": "{55555555-5555-1555-8555-555555555555}", "name": "site-form", "description": "via form"}

BEFORE: dict[str, list[Ask]] = {
    "sites: create b": [site("11111111-1111-4111-8111-111111111111", "site-a", "Coordinator")],
    "sites: create duplicate name": [site("33333333-3333-4333-8333-333333333333", "site-c", "P2")],
    "sites: list": [Ask(method="POST", path="/sites/", status=201, form=FORM_SITE)],
    "sites: lookup disconnected": [heartbeat(UID_B, 0)],
    "projects: list empty": [heartbeat(UID_B, 1), patch("/sites/1/", description="by bob")],
    "projects: list after": [Ask(method="POST", path="/projects/", status=201, json=SECOND)],
    "projects: rename back": [patch("/projects/5/", name="p-other")],
    "participants: list": [patch("/projects/1/", description="bob was here")],
    "participants: delete (leave)": [Ask(method="POST", path="/project-participants/", status=201, json=JOIN_B)],
    "runs: batch was increased nevertheless": [
        heartbeat(UID_B, 0),
        Ask(method="POST", path="/runs", status=400, json={"project": 1}),
    ],
    "runs: start": [heartbeat(UID_B, 1)],
    "status: c Preparing": [status(2, status=3)],
    "status: only itself changed": [status(2, status=4)],
    "status: all Running": [status(1, status=4, update_all=True)],
    "upload: same again": [
        upload(2, 1, 1, mid_artifacts=("mid-artifacts", "{}"), logs=("logs.txt", "log")),
    ],
}
"""What was asked before an example, by its name."""


@dataclass(frozen=True, kw_only=True)
class Otherwise:
    """What the relay answers in place of what the old router did; what is not said is the same."""

    because: str
    status: int | None = None
    body: Json = None


RESOURCES = ("users", "groups", "sites", "projects", "project-participants", "runs", "runs-action")

OTHERWISE: dict[str, Otherwise] = {
    "root: api root JSON unauthenticated": Otherwise(
        because="runs-action/ answers a GET, and is named among the resources",
        body={name: f"{HOST}{API}/{name}/" for name in RESOURCES},
    ),
    "root: api root format=json": Otherwise(
        because="the same",
        body={name: f"{HOST}{API}/{name}/?format=json" for name in RESOURCES},
    ),
    "participants: join role XX": Otherwise(
        because="a role is CO or PA, and nothing else is stored",
        status=400,
        body={"role": ['"XX" is not a valid choice.']},
    ),
    "participants: join as second coordinator": Otherwise(
        because="rights: the site is not bob's, and what is not bob's does not exist for him",
        status=400,
        body={"site": ['Invalid pk "2" - object does not exist.']},
    ),
    "status: unknown number 42 (accepted, no change)": Otherwise(
        because="a status that there is not was stored", status=400, body="status is invalid"
    ),
    "status: Standby -> Preparing (participant)": Otherwise(
        because="rights: the run is not bob's", status=404, body={"detail": "Not found."}
    ),
}
"""What is answered in another way, by the example's name. Numbers that differ are in `translated`."""

PROJECT_IDS = {5: 2, 6: 3, 7: 4, 8: 5}
"""Old → ours. Refused creations of projects used up an id each."""

PATHS = {
    "/projects/8/": "/projects/5/",
    "/project-participants/9/": "/project-participants/8/",  # the role XX was refused, and has no id
    "batch=2": "batch=1",
}


def translated(value: Json) -> Json:
    """An example with this relay's numbers of projects and batches. The old router's refused start counted one up."""
    if isinstance(value, list):
        return [translated(one) for one in value]
    if not isinstance(value, dict):
        return value
    value = {name: translated(one) for name, one in value.items()}
    if isinstance(value.get("path"), str):
        for old, ours in PATHS.items():
            value["path"] = value["path"].replace(old, ours)
    if "agent_config" in value and "id" in value:
        value["id"] = PROJECT_IDS.get(value["id"], value["id"])
    if isinstance(value.get("project"), int):
        value["project"] = PROJECT_IDS.get(value["project"], value["project"])
    if value.get("batch"):
        value["batch"] -= 1
    return value


# --- the replay


class Replay:
    """A client of the relay under test."""

    def __init__(self, relay: RelayProcess) -> None:
        self.url = relay.url
        self.http = httpx.Client(base_url=relay.url, trust_env=False, timeout=30)

    def ask(self, ask: Ask) -> None:
        """Make a request that the sample leaves out."""
        response = self.http.request(
            ask.method,
            API + ask.path,
            headers={"Authorization": ACCOUNTS["admin"].authorization},
            json=ask.json,
            data=ask.form or None,
            files=ask.files or None,
        )
        assert response.status_code == ask.status, f"{ask}: {response.status_code} {response.text}"

    def replay(self, example: dict[str, Json]) -> httpx.Response:
        headers = dict(example.get("request_headers", {}))
        if headers.get("Authorization") == OLD_LOGIN:
            headers["Authorization"] = ACCOUNTS["admin"].authorization.replace("Basic", "basic")
        if example["auth"] is not None:
            account = ACCOUNTS[example["auth"]]
            if "wrong password" in example["name"]:
                account = Account(name=account.name, password="wrong")
            headers["Authorization"] = account.authorization
        return self.http.request(
            example["method"],
            example["path"],
            headers=headers,
            json=example.get("request_json"),
            content=example.get("raw"),
            data=example.get("form"),
            files={name: tuple(file) for name, file in example.get("files", {}).items()} or None,
        )


TIME = re.compile(r'"(\w+_at)":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"')


def comparable(body: Json) -> str:
    """A body as text, its keys in their order, without its times."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return TIME.sub(r'"\1":"(a time)"', text)


def differences(example: dict[str, Json], response: httpx.Response, url: str) -> Iterator[str]:
    """What the response has otherwise than the example."""
    known = OTHERWISE.get(example["name"], Otherwise(because=""))
    wanted_status = known.status or example["status"]
    if response.status_code != wanted_status:
        yield f"status {response.status_code}, expected {wanted_status}"
    wanted_type = example["content_type"] if known.body is None else "application/json"
    if response.headers.get("content-type") != wanted_type:
        yield f"content type {response.headers.get('content-type')}, expected {wanted_type}"
    if example["body"] == A_PAGE:
        if "<html" not in response.text:
            yield f"no page: {response.text!r:.100}"
    elif wanted_type != "application/json":
        if response.content:
            yield f"a body: {response.text!r:.100}"
    else:
        wanted = comparable(example["body"] if known.body is None else known.body).replace(HOST, url)
        if comparable(response.json()) != wanted:
            yield f"body\n    {comparable(response.json())}\n  expected\n    {wanted}"
    for name, value in example.get("headers", {}).items():
        if response.headers.get(name) != value:
            yield f"{name}: {response.headers.get(name)}, expected {value}"


@pytest.fixture(params=DATABASES)
def replay(request: pytest.FixtureRequest) -> Iterator[Replay]:
    # Without a dwell: what is set is shown at once.
    with empty_relay(request, request.param, {"STARFISH_LEGACY_DWELL_S": "0"}) as relay:
        make_operator(relay, ACCOUNTS["admin"])
        for name in ("bob", "ina"):
            make_user(relay, ACCOUNTS[name])
        relay.cli("user", "disable", "ina")
        client = Replay(relay)
        yield client
        client.http.close()


def test_every_example_is_answered_as_it_was(replay: Replay) -> None:
    assert OTHERWISE.keys() | BEFORE.keys() <= {example["name"] for example in EXAMPLES}
    wrong = []
    for example in (translated(example) for example in EXAMPLES):
        for ask in BEFORE.get(example["name"], []):
            replay.ask(ask)
        found = list(differences(example, replay.replay(example), replay.url))
        if found:
            wrong.append("\n  ".join([f"{example['name']}: {example['method']} {example['path']}", *found]))
    assert not wrong, f"{len(wrong)} differ\n" + "\n".join(wrong)
