"""What a site has to install: no web server, no database."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = {
    "aiosqlite",
    "argon2",
    "asyncpg",
    "databases",
    "db",
    "orjson",
    "rich",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "uvloop",
}


PROGRAM = """
import sys
for name in {forbidden!r}:
    sys.modules[name] = None  # as if it were not installed: importing it fails
import relay.client
print(*(name for name, module in sys.modules.items() if module is not None), sep="\\n")
"""


def test_the_client_loads_nothing_of_the_server() -> None:
    program = PROGRAM.format(forbidden=sorted(FORBIDDEN))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert "relay.client.site" in loaded
    assert not {name.partition(".")[0] for name in loaded} & FORBIDDEN
    assert not [
        name for name in loaded if name.startswith("relay.") and name.split(".")[1] not in ("client", "protocol")
    ]
