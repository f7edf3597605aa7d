"""The documents, as tests read them: code blocks, tables, headings, and the schemas of asyncapi.yaml."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROTOCOL = DOCS / "protocol.md"

Schema = dict[str, Any]

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[a-z]+: [^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TABLE = re.compile(r"^<!-- table: (?P<name>.+?) -->\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)
_POINTER = "#/components/schemas/"


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced code block. `mark` is what the comment above it says, e.g. `schema: Hello`; empty without one."""

    mark: str
    language: str
    text: str
    line: int


def blocks(document: Path) -> Iterator[Block]:
    source = document.read_text()
    for found in _BLOCK.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        yield Block(mark=found["mark"] or "", language=found["language"], text=found["text"], line=line)


def block(document: Path, mark: str) -> str:
    """The text of the one block with this mark."""
    (found,) = (block.text for block in blocks(document) if block.mark == mark)
    return found


def table(document: Path, name: str) -> list[list[str]]:
    """The rows of the table under `<!-- table: name -->`, the heading's first; cells without back-quotes."""
    (found,) = (found for found in _TABLE.finditer(document.read_text()) if found["name"] == name)
    rows = [line.strip("|").split("|") for line in found["rows"].splitlines()]
    return [[cell.strip().replace("`", "") for cell in row] for index, row in enumerate(rows) if index != 1]


@cache
def asyncapi() -> dict[str, Any]:
    """docs/asyncapi.yaml. Not to be changed."""
    document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    assert isinstance(document, dict)
    return document


def schemas() -> dict[str, Schema]:
    found: dict[str, Schema] = asyncapi()["components"]["schemas"]
    return found


def resolve(schema: Mapping[str, Any]) -> Schema:
    """A schema with `$ref` and `allOf` followed: what is said in several places, as one object."""
    merged: Schema = {}
    parts = [schema]
    if "$ref" in schema:
        parts.append(resolve(schemas()[schema["$ref"].removeprefix(_POINTER)]))
    parts += [resolve(part) for part in schema.get("allOf", ())]
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                merged.setdefault(key, {}).update(value)
            elif key == "required":
                merged.setdefault(key, []).extend(value)
            elif key not in ("$ref", "allOf"):
                merged.setdefault(key, value)
    return merged


def properties(name: str) -> dict[str, Schema]:
    """The properties of a named schema, those that it takes over from others included."""
    found: dict[str, Schema] = resolve(schemas()[name])["properties"]
    return found


@cache
def _closed_schemas() -> dict[str, Schema]:
    return {name: _closed_inside(schema) for name, schema in schemas().items()}


def violations(schema: str | Schema, value: Any) -> list[str]:
    """What is wrong with a value by a schema (or a named one); empty if nothing is.

    Other than on the wire, a field that is not described is an error.
    """
    named = {"$ref": _POINTER + schema} if isinstance(schema, str) else _closed_inside(schema)
    closed = {"allOf": [named], "unevaluatedProperties": False, "components": {"schemas": _closed_schemas()}}
    return [f"{error.json_path}: {error.message:.400}" for error in Draft202012Validator(closed).iter_errors(value)]


def _closed_inside(schema: Any) -> Any:
    """The schema, with every object *in* it closed; the schema itself stays open, for others build on it."""
    if isinstance(schema, list):
        return [_closed_inside(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed_inside(value) for key, value in schema.items() if key not in ("properties", "items")}
    if "properties" in schema:
        closed["properties"] = {key: _close(value) for key, value in schema["properties"].items()}
    if "items" in schema:
        closed["items"] = _close(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        closed["additionalProperties"] = _close(schema["additionalProperties"])
    return closed


def _close(schema: Schema) -> Schema:
    inside: Schema = copy.copy(_closed_inside(schema))
    if "properties" in resolve(schema):
        inside["unevaluatedProperties"] = False
    return inside


def parse(text: str) -> Any:
    """JSON without the liberties that Python's parser takes."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)
