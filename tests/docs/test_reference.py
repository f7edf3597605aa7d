"""The pages that are made from the code leave nothing out."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache

import yaml
from prometheus_client.metrics import MetricWrapperBase

import relay.client
import relay.metrics
from relay import cli
from relay.config import FOR_COMMANDS, Settings
from relay.protocol.errors import CloseCode, ErrorCode
from tests.docs.documents import DOCS
from tools.reference import PAGES, commands, rest, settings


@cache
def page(name: str) -> str:
    return PAGES[f"reference/{name}.md"]()


def first_cells(name: str) -> set[str]:
    """The first cell of each row of a page's tables."""
    return {cell.strip("`") for cell in re.findall(r"^\| (\S+) \|", page(name), re.MULTILINE)}


def test_every_setting_is_there_with_its_default_and_range() -> None:
    names = {f"STARFISH_{one.name.upper()}" for one in fields(Settings)} - {"STARFISH_DATABASE_URL"}
    assert names | {"DATABASE_URL"} | set(FOR_COMMANDS) <= first_cells("settings")
    assert "| `STARFISH_INLINE_BYTES` | `16777216` (16 MiB) | 4 KiB to 256 MiB |" in page("settings")
    assert "| `STARFISH_LOG_LEVEL` | `info` | `debug`, `info`, `warning`, `error` |" in page("settings")
    assert set(settings.GROUPS) <= {one.name for one in fields(Settings)}


def test_every_command_is_there_with_its_help() -> None:
    said = page("commands")
    found = dict(commands.commands(cli.parser(*cli.COMMANDS)))
    assert {one.name for one in cli.COMMANDS} <= set(found)
    assert {"user create", "token revoke", "audit verify"} <= set(found)
    for name in found:
        assert re.search(rf"^###? {name}$", said, re.MULTILINE), name
        assert f"usage: starfish-relay {name} " in said, name


def test_every_code_is_there_and_says_what_to_do() -> None:
    assert set(ErrorCode) | {str(int(code)) for code in CloseCode} <= first_cells("errors")
    assert "| 4401 | the token has expired or was revoked | no | get a new token, then connect |" in page("errors")


def test_every_exception_of_the_client_is_there() -> None:
    raised = {name for name in relay.client.__all__ if isinstance(found := getattr(relay.client, name), type)
              and issubclass(found, Exception)}  # fmt: skip
    assert "NotConnected" in raised
    assert {name for name in raised if not re.search(rf"\b{name}\b", page("errors"))} == set()


def test_every_metric_is_there() -> None:
    counted = [one for one in vars(relay.metrics).values() if isinstance(one, MetricWrapperBase)]
    shown = first_cells("metrics")
    assert {f"{one._name}_{'total' if one._type == 'counter' else 'bucket'}" for one in counted} <= shown
    assert {"starfish_sessions", "starfish_lag_events", "starfish_relay_info"} <= shown
    assert not any(name.endswith("_created") for name in shown)


def test_every_operation_and_object_of_rest_is_there() -> None:
    document = yaml.safe_load((DOCS / "openapi.yaml").read_text())
    for method, path, _ in rest.operations(document):
        assert f"### {method} {path}\n" in page("rest")
    for name in document["components"]["schemas"]:
        assert f"### {name} {{ #object-{name.lower()} }}" in page("rest")


def test_every_frame_is_there() -> None:
    document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    for name in document["components"]["messages"]:
        assert f"### {name}\n" in page("frames")
    assert "| `server.version` |" in page("frames"), "the fields of an object in an object"
