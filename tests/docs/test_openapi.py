"""docs/openapi.yaml is valid OpenAPI 3.1, names every route of the relay and no other, and says what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import BaseRoute, Route

from relay.config import Settings
from relay.core.calls import METHODS as CALLS
from relay.core.files import LISTS
from relay.core.model import PUBLISHABLE, Group, Kind, User
from relay.core.run_states import Status
from relay.core.users import Member
from relay.protocol.envelope import ResumeFrom
from relay.web import app, blobs, events
from relay.web.legacy import bodies
from relay.web.legacy.door import PAGE
from relay.web.legacy.runs import PATIENCE_S
from tests.docs.documents import DOCS
from tests.docs.test_asyncapi import OBJECTS, references

METHODS = ("get", "post", "put", "patch", "delete")
SCHEMAS = "#/components/schemas/"


@cache
def openapi() -> dict[str, Any]:
    """docs/openapi.yaml. Not to be changed."""
    document = yaml.safe_load((DOCS / "openapi.yaml").read_text())
    assert isinstance(document, dict)
    return document


def schemas() -> dict[str, Any]:
    found: dict[str, Any] = openapi()["components"]["schemas"]
    return found


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method in upper case, and what is said of it."""
    for path, item in openapi()["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method.upper(), item[method]


def test_it_is_valid() -> None:
    assert [
        f"{list(error.path)}: {error.message:.300}" for error in OpenAPIV31SpecValidator(openapi()).iter_errors()
    ] == []


def test_all_components_are_used() -> None:
    used = {reference.removeprefix("#/components/") for reference in references(openapi())}
    named = {
        f"{kind}/{name}"
        for kind, of_kind in openapi()["components"].items()
        if kind != "securitySchemes"
        for name in of_kind
    }
    assert named == used


def test_operations_have_names_tags_and_summaries_of_their_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    tags = [tag["name"] for tag in openapi()["tags"]]
    for path, method, operation in operations():
        assert operation["summary"] and len(operation["tags"]) == 1, (method, path)
    assert {operation["tags"][0] for _, _, operation in operations()} == set(tags)


# --- the routes


def methods_of(route: Route) -> set[str]:
    """The methods of a route, but for those that follow from others."""
    view = getattr(route.endpoint, "view", None)
    found = set(view.handlers) if view is not None else set(route.methods or ())
    return found - {"HEAD", "OPTIONS"}


def served(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """What is served over HTTP: path and method."""
    return {(route.path, method) for route in routes if isinstance(route, Route) for method in methods_of(route)}


async def test_every_route_has_an_entry_and_every_entry_a_route(tmp_path: Path) -> None:
    async with app.running(Settings(data_dir=tmp_path)) as relay:
        found = served(relay.app.routes)
    described = {(path, method) for path, method, _ in operations()}
    assert sorted(found - described) == [], "served, and not in docs/openapi.yaml"
    assert sorted(described - found) == [], "in docs/openapi.yaml, and not served"


# --- objects


def described(name: str) -> tuple[set[str], set[str]]:
    """The properties of a schema, and those that are required."""
    schema = schemas()[name]
    return set(schema["properties"]), set(schema.get("required", ()))


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_exactly_the_fields_that_are_described(name: str) -> None:
    fields = set(OBJECTS[name])
    assert described(name) == (fields, fields)


def test_a_run_that_is_shown_whole_has_the_fields_of_a_run() -> None:
    assert described("RunWhole") == described("Run")


@pytest.mark.parametrize(
    ("name", "struct"),
    [
        ("Publish", events.PublishBody),
        ("Ack", events.AckBody),
        ("LinkInput", blobs.LinkBody),
        ("ResumeFrom", ResumeFrom),
    ],
)
def test_a_body_has_the_fields_that_the_relay_reads(name: str, struct: type[msgspec.Struct]) -> None:
    assert described(name)[0] == set(struct.__struct_fields__)


def test_users_and_groups_have_the_fields_that_are_described() -> None:
    assert set(User.__dataclass_fields__) | {"url", "groups"} >= described("User")[0]
    assert set(Group.__dataclass_fields__) | {"url"} >= described("Group")[0]
    assert "groups" in Member.__dataclass_fields__


# --- words and numbers


def test_the_words_are_those_of_the_relay() -> None:
    assert schemas()["Status"]["enum"] == [status.display for status in sorted(Status)]
    assert schemas()["StatusCode"]["description"] == ", ".join(
        f"{status:d} {status.display}" for status in sorted(Status)
    )
    assert set(schemas()["Kind"]["enum"]) == set(Kind)
    assert set(schemas()["ClientKind"]["enum"]) == PUBLISHABLE
    assert schemas()["Method"]["enum"] == list(CALLS)
    assert set(schemas()["FileType"]["enum"]) == set(LISTS)


def test_the_numbers_are_those_of_the_code() -> None:
    text = re.sub(r"\s+", " ", (DOCS / "openapi.yaml").read_text())
    settings = Settings()
    assert f"at most {bodies.MAX_BYTES // 2**20} MiB: else 415 or 413" in text
    assert f"Connected for {settings.heartbeat_s:.0f} s (`STARFISH_HEARTBEAT_S`)" in text
    assert f"at least {settings.legacy_dwell_s:.0f} s (`STARFISH_LEGACY_DWELL_S`)" in text
    assert f"At most {settings.upload_bytes // 2**30} GiB (`STARFISH_UPLOAD_BYTES`)" in text
    assert f"{settings.upload_files} files (`STARFISH_UPLOAD_FILES`)" in text
    assert f"tried again for {PATIENCE_S:.0f} s" in text
    assert f"at most {settings.frame_bytes // 2**20} MiB (`STARFISH_FRAME_BYTES`)" in text
    assert f"at most {settings.inline_bytes // 2**20} MiB of bytes (`STARFISH_INLINE_BYTES`)" in text
    assert f"A page has {PAGE}" in text
    limits = {one["name"]: one["schema"] for one in openapi()["paths"][EVENTS]["get"]["parameters"]}
    assert limits["limit"]["maximum"] == events.MAX_LIMIT
    assert limits["wait"]["maximum"] == events.MAX_WAIT_S


EVENTS = "/starfish/api/v1/projects/{project}/events/"
