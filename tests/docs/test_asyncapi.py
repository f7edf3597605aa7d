"""docs/asyncapi.yaml is valid AsyncAPI 3.0, and says of the protocol what the code does."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from relay.core.calls import METHODS
from relay.core.model import PUBLISHABLE, Kind, Participant, Project, Role, Run, Site
from relay.core.objects import participation_object, project_object, run_object, site_object
from relay.core.policy import Reason
from relay.core.run_states import Status
from relay.protocol.envelope import SUBPROTOCOL, ClientFrame, ResumeFrom
from relay.protocol.errors import RECONNECT, CloseCode, ErrorCode
from tests.docs.documents import ROOT, Schema, asyncapi, properties, resolve, schemas, violations

OFFICIAL = ROOT / "tests/docs/schemas/asyncapi-3.0.0.json"
"""The AsyncAPI Initiative's own schema of version 3.0.0: see the README beside it."""

CLIENT_FRAMES: dict[str, type[msgspec.Struct]] = {frame.__name__: frame for frame in get_args(ClientFrame)}


def test_it_is_valid_by_the_official_schema() -> None:
    validator = Draft7Validator(json.loads(OFFICIAL.read_text()), format_checker=Draft7Validator.FORMAT_CHECKER)
    assert [f"{error.json_path}: {error.message:.300}" for error in validator.iter_errors(asyncapi())] == []


def test_every_reference_leads_somewhere() -> None:
    for reference in references(asyncapi()):
        target: Any = asyncapi()
        for step in reference.removeprefix("#/").split("/"):
            assert step in target, reference
            target = target[step]


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in references(item)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [found for value in node.values() for found in references(value)]


def test_every_schema_is_used() -> None:
    used = {reference.rpartition("/")[2] for reference in references(asyncapi())}
    assert set(schemas()) - used == {"Refusal"}  # the body of an HTTP response: named in x-handshake-refusals


def test_every_message_is_sent_or_received_by_an_operation() -> None:
    used = {ref.rpartition("/")[2] for ref in references(asyncapi()["operations"]) if "/messages/" in ref}
    assert used == set(asyncapi()["channels"]["session"]["messages"]) == set(asyncapi()["components"]["messages"])


# The frames of a client


def test_the_client_frames_are_those_that_the_relay_reads() -> None:
    received = {
        ref.rpartition("/")[2]
        for operation in asyncapi()["operations"].values()
        if operation["action"] == "receive"
        for ref in references(operation["messages"])
    }
    assert received - {"publishBinary"} == {frame.__struct_config__.tag for frame in CLIENT_FRAMES.values()}


@pytest.mark.parametrize("name", CLIENT_FRAMES)
def test_a_client_frame_has_the_fields_that_the_relay_reads(name: str) -> None:
    frame = CLIENT_FRAMES[name]
    described = properties(name)
    assert described["type"] == {"const": frame.__struct_config__.tag}
    assert set(described) - {"type"} == set(frame.__struct_encode_fields__)
    assert_types_agree(frame, described)


def test_a_position_has_the_fields_that_the_relay_reads() -> None:
    assert set(properties("ResumeFrom")) == set(ResumeFrom.__struct_encode_fields__)
    assert_types_agree(ResumeFrom, properties("ResumeFrom"))


def test_a_binary_publish_has_the_fields_of_a_publish_but_data() -> None:
    assert set(properties("PublishHeader")) == set(properties("Publish")) - {"data"}


def assert_types_agree(struct: type[msgspec.Struct], described: dict[str, Schema]) -> None:
    """Each property allows the JSON types that the struct's field does; null stands for left out, and is not shown."""
    own = msgspec.json.schema(struct)
    (fields,) = (own["$defs"][struct.__name__]["properties"],)
    for name, field in fields.items():
        if name != "type":
            assert types(described[name]) == types(field, own["$defs"]) - {"null"}, name


def types(schema: Schema, definitions: dict[str, Schema] | None = None) -> set[str]:
    """The JSON types that a schema allows; empty if it allows any."""
    if definitions is not None and "$ref" in schema:
        return types(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    schema = schema if definitions is not None else resolve(schema)
    if "type" in schema:
        return {schema["type"]} if isinstance(schema["type"], str) else set(schema["type"])
    if "enum" in schema or "const" in schema:
        return {"string"}
    return {found for branch in schema.get("anyOf", ()) for found in types(branch, definitions)}


# The methods of `call`


def branches() -> dict[str, Schema]:
    """Method → its branch of `Call`."""
    found = {branch["properties"]["method"]["const"]: branch for branch in schemas()["Call"]["oneOf"]}
    assert len(found) == len(schemas()["Call"]["oneOf"])
    return found


def test_the_methods_are_those_of_the_relay() -> None:
    assert set(schemas()["Method"]["enum"]) == set(branches()) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_the_parameters_that_the_relay_reads(method: str) -> None:
    assert_same_object(resolve(branches()[method]["properties"]["params"]), METHODS[method][0])


def assert_same_object(described: Schema, struct: type[msgspec.Struct]) -> None:
    (own,), definitions = msgspec.json.schema_components([struct], ref_template="#/{name}")
    compare(described, own, definitions, struct.__name__)


def compare(described: Schema, own: Schema, definitions: dict[str, Any], place: str) -> None:
    """That the YAML's schema and the code's say the same: types, bounds, and the same of every property."""
    described = resolve(described)
    own = definitions[own["$ref"].removeprefix("#/")] if "$ref" in own else own
    if "anyOf" in own:
        own = without_null(own)
        own = definitions[own["$ref"].removeprefix("#/")] if "$ref" in own else own
    for bound in BOUNDS:
        assert described.get(bound) == own.get(bound), f"{place}: {bound}"
    if "properties" in own:
        assert set(described.get("properties", {})) == set(own["properties"]), place
        assert sorted(described.get("required", [])) == sorted(own["required"]), place
        for name, field in own["properties"].items():
            compare(described["properties"][name], field, definitions, f"{place}.{name}")
    elif "enum" in own:
        assert set(described["enum"]) == set(own["enum"]), place
    elif "anyOf" not in own:
        assert described.get("type") == own.get("type"), place
    for inner in ("items", "additionalProperties", "propertyNames"):
        if isinstance(own.get(inner), dict):
            compare(described[inner], own[inner], definitions, f"{place}.{inner}")


BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "maxItems", "maxProperties")


def without_null(schema: Schema) -> Schema:
    """`X | None` as X; a union of more than one type as it is."""
    others = [branch for branch in schema["anyOf"] if branch != {"type": "null"}]
    return others[0] if len(others) == 1 else {"anyOf": others}


# Objects

SITE = Site(
    id=3,
    uid="5f0c8f0e-0c51-4b1e-9d5f-2b8b6f1f9a10",
    name="north",
    description="",
    owner_id=1,
    connected=True,
    seen_us=0,
    created_us=0,
    updated_us=0,
)
TASK = {"seq": 1, "model": "LogisticRegression", "config": {"total_round": 2, "current_round": 1, "own": [1]}}
PROJECT = Project(
    id=12,
    name="thyroid",
    description="",
    site_id=3,
    batch=0,
    tasks=[TASK],
    agent_config={"any": "thing"},
    agent_log=[],
    created_us=0,
    updated_us=0,
)
PARTICIPANT = Participant(
    id=7,
    project_id=12,
    site_id=3,
    site_uid=SITE.uid,
    role=Role.COORDINATOR,
    notes="",
    joined=0,
    created_us=0,
    updated_us=0,
)
RUN = Run(
    id=88,
    project_id=12,
    batch=1,
    participant_id=7,
    site_id=3,
    site_uid=SITE.uid,
    role=Role.COORDINATOR,
    cur_seq=1,
    status=Status.STANDBY,
    tasks=[TASK],
    logs=[],
    artifacts=[],
    middle_artifacts=[],
    agent_advice={},
    agent_diagnosis={},
    created_us=0,
    updated_us=0,
)
_SITE = site_object(SITE, online=True)
OBJECTS = {
    "Site": _SITE,
    "Project": project_object(PROJECT),
    "Participation": participation_object(PARTICIPANT, _SITE, project_object(PROJECT)),
    "Run": run_object(RUN),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_exactly_the_fields_that_are_described(name: str) -> None:
    assert violations(name, OBJECTS[name]) == []
    assert set(OBJECTS[name]) == set(properties(name)) == set(resolve(schemas()[name])["required"])


# Words


def test_the_error_codes_are_those_of_the_relay() -> None:
    assert schemas()["ErrorCode"]["enum"] == list(ErrorCode)


def test_the_close_codes_are_those_of_the_relay_and_say_whether_to_reconnect() -> None:
    described = asyncapi()["channels"]["session"]["x-close-codes"]
    assert {int(code): entry["reconnect"] for code, entry in described.items()} == dict(RECONNECT)
    assert set(RECONNECT) == set(CloseCode)


def test_the_codes_of_a_refused_handshake_are_error_codes() -> None:
    described = asyncapi()["channels"]["session"]["x-handshake-refusals"]
    assert {code for codes in described.values() for code in codes} <= set(ErrorCode)


def test_the_kinds_of_events_are_those_of_the_relay() -> None:
    assert set(schemas()["Kind"]["enum"]) == set(Kind)
    assert set(schemas()["ClientKind"]["enum"]) == PUBLISHABLE


def test_each_kind_of_the_relays_own_has_its_data_described() -> None:
    described = {part["if"]["properties"]["kind"]["const"] for part in schemas()["Event"]["allOf"] if "if" in part}
    assert described == set(Kind) - PUBLISHABLE


def test_the_statuses_stand_at_the_place_of_their_codes() -> None:
    assert schemas()["StatusDisplay"]["enum"] == [status.display for status in sorted(Status)]
    assert (schemas()["StatusCode"]["minimum"], schemas()["StatusCode"]["maximum"]) == (min(Status), max(Status))


def test_the_reasons_of_batch_events_are_those_of_the_relay() -> None:
    assert schemas()["Reason"]["enum"] == list(Reason)


def test_the_roles_are_those_of_the_relay() -> None:
    assert set(schemas()["Role"]["enum"]) == {role.display for role in Role}


def test_the_subprotocol_is_named() -> None:
    headers = asyncapi()["channels"]["session"]["bindings"]["ws"]["headers"]["properties"]
    assert SUBPROTOCOL in headers["Sec-WebSocket-Protocol"]["description"]
