"""A site's process that sends or saves one payload, and may be killed at it: `python -m tests.client.worker send|save`.

The environment says where and what; what it has to say comes as one line of JSON at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from relay.client import Limits, Site


def _memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


async def main(what: str) -> None:
    env = os.environ
    limits = Limits(backoff_s=0.05, backoff_max_s=0.5, parallel_parts=int(env["PARALLEL"]))
    site = Site(
        env["URL"], user=env["USER_NAME"], password=env["PASSWORD"], uid=env["UID_"], proxy=False, limits=limits
    )
    project, path = int(env["PROJECT"]), Path(env["FILE"])
    async with site:
        before = _memory_bytes("VmRSS:")
        if what == "send":
            sent = await site.send_update(project, path)
            said: dict[str, object] = {"offset": sent.offset, "duplicate": sent.duplicate}
        else:
            (event,) = await site.history(project, kind="update")
            said = {"saved": (await event.save(path)).name}
        await asyncio.to_thread(print, json.dumps(said | {"grown": _memory_bytes("VmHWM:") - before}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
