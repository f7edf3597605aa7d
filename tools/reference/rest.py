"""The REST API, from docs/openapi.yaml, as a page that needs no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.reference import markdown
from tools.reference.schemas import Schemas

OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.yaml"
METHODS = ("get", "post", "put", "patch", "delete", "head", "options")

_HEAD = """\
# REST

All that the relay answers over HTTP, from [openapi.yaml](../openapi.yaml), which a relay serves itself at
`/starfish/api/v1/openapi.yaml`, with a page to try it on at `/starfish/api/v1/`. What a polling controller has to
know is in [the polling API](../legacy-api.md), events and blobs are explained in [the
protocol](../protocol.md#without-a-websocket).

"""


def page() -> str:
    document = yaml.safe_load(OPENAPI.read_text())
    schemas = Schemas(document)
    parts = [_HEAD, document["info"]["description"], "\n\n"]
    for tag in document["tags"]:
        parts.append(f"## {tag['name']}\n\n{tag['description'].strip()}\n\n")
        parts += [_operation(schemas, *one) for one in operations(document) if tag["name"] in one[2]["tags"]]
    parts.append("## Objects\n\n")
    parts += [schemas.headed(name) for name in schemas.names]
    return "".join(parts)


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method in upper case, path, and what is said of it; the path's parameters among its own."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                own = dict(item[method])
                own["parameters"] = [*item.get("parameters", []), *own.get("parameters", [])]
                yield method.upper(), path, own


def _operation(schemas: Schemas, method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [f"### {method} {path}\n\n{operation['summary']}.\n\n"]
    if "description" in operation:
        parts.append(f"{operation['description'].strip()}\n\n")
    parameters = [schemas.followed(one) for one in operation["parameters"]]
    rows = [
        [markdown.code(one["name"]), one["in"], schemas.spoken(one.get("schema")), "yes" if one.get("required") else "",
         one.get("description", "")]
        for one in parameters
    ]  # fmt: skip
    parts.append(markdown.table(["parameter", "in", "type", "required", ""], rows))
    if "requestBody" in operation:
        parts.append(_body(schemas, schemas.followed(operation["requestBody"])))
    parts.append(markdown.table(["status", "answer", "body"], _answers(schemas, operation["responses"])))
    return "".join(parts)


def _body(schemas: Schemas, body: Mapping[str, Any]) -> str:
    said = body.get("description", "").strip()
    parts = [f"**Body.** {said}\n\n" if said else "**Body.**\n\n"]
    rows = [[markdown.code(media), schemas.spoken(one.get("schema"))] for media, one in body["content"].items()]
    parts.append(markdown.table(["media type", "content"], rows))
    inline = next((one["schema"] for one in body["content"].values() if "properties" in one.get("schema", {})), None)
    if inline is not None:
        parts.append(markdown.table(["field", "type", "required", ""], schemas.fields(inline)))
    return "".join(parts)


def _answers(schemas: Schemas, responses: Mapping[str, Any]) -> Iterator[list[str]]:
    for status, response in responses.items():
        whole = schemas.followed(response)
        bodies = dict.fromkeys(_media(schemas, *one) for one in whole.get("content", {}).items())
        yield [str(status), whole["description"], "; ".join(bodies)]


def _media(schemas: Schemas, media: str, content: Mapping[str, Any]) -> str:
    spoken = schemas.spoken(content.get("schema"))
    return spoken if media == "application/json" else f"{markdown.code(media)}: {spoken}"
