"""The API's documentation as a page: openapi.yaml, rendered here, readable without a script.

    page          what it is, how to begin, then each tag with its operations, and the objects
    _operation    one method of one path: parameters, body, answers
    _fields       the properties of a schema as a table

The document is this project's own and is checked by its tests; what it may not contain is not handled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import yaml

from relay import __version__
from relay.core.model import JsonObject
from relay.web.legacy import pages

SOURCE = Path(__file__).parent.with_name("openapi.yaml")
BASE = "/starfish/api/v1/"

_METHODS = ("get", "post", "put", "patch", "delete")

_BEGIN = """\
curl -u anna https://relay.example.org/starfish/api/v1/sites/ \\
     -d 'uid=5f0c8f0e-0c51-4b1e-9d5f-2b8b6f1f9a10' -d 'name=St. Anna' -d 'description=Radiology'
curl -u anna https://relay.example.org/starfish/api/v1/runs/active/
"""


_INTRODUCTION = (
    f"<p>The paths below are relative to <code>{BASE}</code> unless they begin with a slash. To register a site, and "
    f"to poll for its runs:</p><pre>{escape(_BEGIN)}</pre>"
)
_OBJECTS = (
    '<h2 id="Objects">Objects</h2><p>What bodies and answers are made of. A field with '
    '<span class="needed">a star</span> is always there, or has to be.</p>'
)


@cache
def source() -> bytes:
    """The document, as it is served."""
    return SOURCE.read_bytes()


@cache
def page() -> str:
    """The whole page. The first call takes some tens of milliseconds."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return pages.document("API", Reference(yaml.load(source(), loader)).body())  # noqa: S506 - a safe loader, either


class Reference:
    """An OpenAPI document that is being rendered."""

    def __init__(self, document: JsonObject) -> None:
        self._document = document
        self._objects = {
            name: schema for name, schema in document["components"]["schemas"].items() if "properties" in schema
        }

    def body(self) -> str:
        info, tags = self._document["info"], self._document["tags"]
        links = "".join(f'<a href="#{escape(tag["name"])}">{escape(tag["name"])}</a>' for tag in tags)
        parts = [
            f"<h1>{escape(info['title'])} <small>{escape(__version__)}</small></h1>",
            _text(info["summary"]),
            f'<nav>{links}<a href="#Objects">Objects</a><a href="{BASE}openapi.yaml">openapi.yaml</a></nav>',
            _INTRODUCTION,
            _text(info["description"]),
            *(self._tag(tag) for tag in tags),
            _OBJECTS,
            *(self._object(name, schema) for name, schema in self._objects.items()),
        ]
        return "\n".join(parts)

    # --- operations

    def _tag(self, tag: JsonObject) -> str:
        name = tag["name"]
        operations = "\n".join(
            self._operation(path, method, item)
            for path, item in self._document["paths"].items()
            for method in _METHODS
            if method in item and name in item[method]["tags"]
        )
        return f'<h2 id="{escape(name)}">{escape(name)}</h2>{_text(tag["description"])}\n{operations}'

    def _operation(self, path: str, method: str, item: JsonObject) -> str:
        operation = item[method]
        parameters = [self._resolve(one) for one in (*item.get("parameters", ()), *operation.get("parameters", ()))]
        inside = [
            _text(operation.get("description", "")),
            _section("Who", self._who(operation)),
            _section("Parameters", self._parameters(parameters)),
            _section("Body", self._content(operation.get("requestBody", {}).get("content", {}))),
            _section("Answers", self._answers(operation["responses"])),
        ]
        summary = (
            f'<b class="method {method}">{method.upper()}</b><code>{escape(path.removeprefix(BASE) or path)}</code>'
            f"<span>{_inline(operation['summary'])}</span>"
        )
        return _details(operation["operationId"], summary, "".join(inside))

    def _who(self, operation: JsonObject) -> str:
        """Which credentials; nothing for those that are usual."""
        security = operation.get("security")
        if security is None:
            return ""
        schemes = self._document["components"]["securitySchemes"]
        ways = [" and ".join(_inline(_scheme(schemes[name])) for name in way) for way in security]
        return f"<p>{'; or '.join(ways)}.</p>" if ways else "<p>Anybody.</p>"

    def _parameters(self, parameters: Iterable[JsonObject]) -> str:
        return _table(
            (
                _name(parameter["name"], is_needed=parameter.get("required", False)),
                f"{self._type(parameter['schema'])} <span>in {escape(_PLACES[parameter['in']])}</span>",
                self._described(parameter["schema"], parameter.get("description", "")),
            )
            for parameter in parameters
        )

    def _answers(self, responses: JsonObject) -> str:
        return _table(
            (_name(status), "", self._answer(self._resolve(response))) for status, response in sorted(responses.items())
        )

    def _answer(self, response: JsonObject) -> str:
        media = [
            f"<code>{escape(media)}</code>{self._of_schema(content['schema'])}"
            for media, content in response.get("content", {}).items()
        ]
        return _text(response["description"]) + (f'<p class="soft">{"; ".join(media)}</p>' if media else "")

    def _of_schema(self, schema: JsonObject) -> str:
        shown = self._type(schema)
        return "" if schema.get("type") == "string" or not shown else f": {shown}"

    def _content(self, content: JsonObject) -> str:
        return "".join(
            f'<p class="soft"><code>{escape(media)}</code></p>{self._shape(one["schema"])}'
            for media, one in content.items()
        )

    # --- schemas

    def _object(self, name: str, schema: JsonObject) -> str:
        return _details(name, f"<code>{escape(name)}</code>", self._shape(schema))

    def _shape(self, schema: JsonObject) -> str:
        """An object's fields, and what one looks like."""
        schema = self._resolve(schema)
        examples = "".join(_example(example) for example in schema.get("examples", ()))
        return _text(schema.get("description", "")) + self._fields(schema) + examples

    def _fields(self, schema: JsonObject) -> str:
        needed = schema.get("required", ())
        return _table(
            (_name(name, is_needed=name in needed), self._type(field), self._described(field))
            for name, field in schema.get("properties", {}).items()
        )

    def _described(self, schema: JsonObject, own: str = "") -> str:
        """What is said of a value: where it stands, else where its schema is."""
        resolved = self._resolve(schema)
        said = own or schema.get("description") or resolved.get("description", "")
        bounds = _bounds(resolved)
        return _text("; ".join(part for part in (said.rstrip("."), bounds) if part))

    def _type(self, schema: JsonObject) -> str:
        name = schema.get("$ref", "").rpartition("/")[2]
        if name in self._objects:
            return f'<a href="#{name}">{name}</a>'
        schema = self._resolve(schema)
        if "enum" in schema:
            return " · ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
        if "const" in schema:
            return f"<code>{escape(json.dumps(schema['const']))}</code>"
        if "anyOf" in schema:
            return " or ".join(filter(None, (self._type(one) for one in schema["anyOf"])))
        if schema.get("type") == "array":
            return f"array of {self._type(schema['items'])}" if "items" in schema else "array"
        if isinstance(schema.get("properties", {}).get("results"), dict):
            return f"page of {self._type(schema['properties']['results']['items'])}"
        kinds = schema.get("type", "")
        return escape(schema.get("format") or (kinds if isinstance(kinds, str) else " or ".join(kinds)))

    def _resolve(self, node: JsonObject) -> JsonObject:
        while "$ref" in node:
            target: Any = self._document
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            node = target
        return node


_PLACES = {"path": "the path", "query": "the query", "header": "a header"}


def _scheme(scheme: JsonObject) -> str:
    words = {"basic": "Basic", "bearer": "Bearer"}
    return words[scheme["scheme"]] if scheme["type"] == "http" else f"`{scheme['name']}`"


def _bounds(schema: JsonObject) -> str:
    """The bounds that a person wants to know; those of 64 bits are nobody's business."""
    least, most = schema.get("minimum"), schema.get("maximum")
    said = []
    if most is not None and most < 2**53:
        said.append(f"{least or 0} to {most}")
    if "default" in schema:
        said.append(f"default {json.dumps(schema['default'])}")
    for bound, words in (("maxLength", "at most {} characters"), ("maxItems", "at most {}")):
        if bound in schema:
            said.append(words.format(schema[bound]))
    return "; ".join(said)


# --- HTML


def _details(name: str, summary: str, inside: str) -> str:
    return f'<details id="{escape(name)}"><summary>{summary}</summary><div>{inside}</div></details>'


def _section(title: str, inside: str) -> str:
    return f"<h3>{title}</h3>{inside}" if inside else ""


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Rows of a name, a type and a text, all HTML. A column that is empty throughout is left out."""
    found = list(rows)
    has_types = any(type_ for _, type_, _ in found)
    cells = (
        f"<tr><th>{name}</th>{f'<td class=type>{type_}</td>' if has_types else ''}<td>{text}</td></tr>"
        for name, type_, text in found
    )
    return f"<table>{''.join(cells)}</table>" if found else ""


def _name(name: str, *, is_needed: bool = False) -> str:
    return f"<code{' class=needed' if is_needed else ''}>{escape(name)}</code>"


def _example(example: Any) -> str:
    return f"<pre>{escape(json.dumps(example, ensure_ascii=False))}</pre>"


def _text(text: str) -> str:
    """Paragraphs and lists, with `code` and **bold**."""
    return "".join(_block(block) for block in re.split(r"\n\s*\n", text.strip()) if block)


def _block(block: str) -> str:
    if block.startswith("- "):
        items = "".join(f"<li>{_inline(item)}</li>" for item in re.split(r"\n- ", block[2:]))
        return f"<ul>{items}</ul>"
    return f"<p>{_inline(block)}</p>"


def _inline(text: str) -> str:
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    for index, piece in enumerate(text.split("`")):
        escaped = escape(piece, quote=False)
        yield f"<code>{escaped}</code>" if index % 2 else re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escaped)
