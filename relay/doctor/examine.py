"""All checks, in the order in which one would look: what comes first is often why what comes later is wrong."""

from __future__ import annotations

import os

from relay.config import Settings, unknown_names
from relay.doctor import contents, database, machine, public
from relay.doctor.findings import Finding, good, guarded, warning


async def examine(settings: Settings, *, url: str = "", token: str = "", full: bool = False) -> list[Finding]:
    """Look at everything.

    Args:
        url: the public one; empty leaves out what is seen from outside.
        token: a site's, for a session by that URL.
        full: read every byte of the blobs and of a SQLite database.
    """
    found = configuration()

    async def of_machine() -> list[Finding]:
        return machine.disk(settings)

    found += await guarded("disk", of_machine)
    found += machine.descriptors()
    async with database.opened(settings, found) as opened:
        if opened is not None:
            looked = await database.look(opened, settings, full=full)
            found += looked
            if all(one.check != "schema" or not one.mend for one in looked):
                found += await guarded("blobs", lambda: contents.look(opened, settings, full=full))
        file = opened.files[0] if opened is not None and opened.files else None
    found += machine.permissions(settings, file)
    found += await guarded("port", lambda: machine.port(settings))
    if url:
        found += await public.look(url, token, settings)
    return found


def configuration() -> list[Finding]:
    """That the settings could be read at all is known by now."""
    unknown = unknown_names(os.environ)
    if unknown:
        return [warning("configuration", f"{', '.join(unknown)}: no such setting", "is it misspelt? check-config")]
    return [good("configuration", "every setting is known and in its range")]
