"""What `doctor` does: look at everything, and say it in a line each."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import asdict

from relay.cli.run import settings_of
from relay.cli.words import command
from relay.config import BadSetting
from relay.doctor.examine import examine
from relay.doctor.findings import Finding, State, fault

_MARKS = {State.GOOD: "✓", State.WARNING: "!", State.FAULT: "✗"}


def add_doctor(parser: argparse.ArgumentParser) -> None:
    command(
        parser,
        doctor,
        "starfish-relay doctor\n"
        "STARFISH_TOKEN=sfr_… starfish-relay doctor --url https://relay.example --json\n"
        "                                              by the public URL, too, with a session of the token's site",
    )
    parser.add_argument("--url", metavar="URL", help="the public URL, by which sites reach the relay")
    parser.add_argument("--full", action="store_true", help="read all bytes of the blobs, and of a SQLite database")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--host", metavar="H", help="as `serve` has it; default: $STARFISH_HOST, or 127.0.0.1")
    parser.add_argument("--port", metavar="P", type=int, help="the same; default: $STARFISH_PORT, or 8000")


def doctor(options: argparse.Namespace) -> int:
    """Returns 1 if anything is wrong that keeps a relay from its work, or what it stores from being safe."""
    try:
        settings = settings_of(options, host=options.host, port=options.port)
    except BadSetting as error:
        found = [fault("configuration", str(error), "`starfish-relay check-config` lists the settings")]
    else:
        token = os.environ.get("STARFISH_TOKEN", "")
        found = asyncio.run(examine(settings, url=options.url or "", token=token, full=options.full))
    failed = any(one.state == State.FAULT for one in found)
    if options.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(one) for one in found]}, ensure_ascii=False))
    else:
        print("\n".join(_lines(found)))
    return int(failed)


def _lines(found: list[Finding]) -> list[str]:
    width = max(len(one.check) for one in found)
    lines = []
    for one in found:
        lines.append(f"{_MARKS[one.state]} {one.check:{width}}  {one.said}")
        if one.mend:
            lines.append(f"  {'':{width}}  → {one.mend}")
    return lines
