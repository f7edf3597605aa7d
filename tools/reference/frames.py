"""The frames of the WebSocket, from docs/asyncapi.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.reference import markdown
from tools.reference.schemas import Schemas

ASYNCAPI = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"

_HEAD = """\
# Frames

Every frame of the WebSocket and its fields, from [asyncapi.yaml](../asyncapi.yaml). What they mean, in which order
they come, with examples: [the protocol](../protocol.md).

"""


def page() -> str:
    document = yaml.safe_load(ASYNCAPI.read_text())
    schemas, directions = Schemas(document), _directions(document)
    parts = [_HEAD]
    for title, name in (("From client to relay", "receive"), ("From relay to client", "send")):
        parts.append(f"## {title}\n\n")
        messages = document["components"]["messages"]
        parts += [_message(schemas, key, messages[key]) for key in messages if directions[key] == name]
    parts.append("## Objects\n\n")
    parts += [schemas.headed(name) for name in schemas.names]
    return "".join(parts)


def _directions(document: Mapping[str, Any]) -> dict[str, str]:
    """Of each message, what the relay does with it: `receive` or `send`."""
    found = dict[str, str]()
    for operation in document["operations"].values():
        found |= {_named(one): operation["action"] for one in operation["messages"]}
        other = "send" if operation["action"] == "receive" else "receive"
        found |= {_named(one): other for one in operation.get("reply", {}).get("messages", [])}
    return found


def _named(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _message(schemas: Schemas, name: str, message: Mapping[str, Any]) -> str:
    whole = message.get("headers", message["payload"])
    said = f" {message['description'].strip()}" if "description" in message else ""
    rows = schemas.fields(whole)
    return f"### {name}\n\n{message['summary']}.{said}\n\n{markdown.table(['field', 'type', 'required', ''], rows)}"
