"""The bytes of blobs and files: are those there that the database names?"""

from __future__ import annotations

from db.connect import Database
from db.store import Store
from relay.config import BadSetting, Settings
from relay.core import blob_care
from relay.doctor.findings import Finding, fault, good
from relay.storage import open_files

SAMPLE = 2_000
NAMED = 3
MEND = "restore them from a backup; `starfish-relay blobs fsck` lists all"


async def look(database: Database, settings: Settings, *, full: bool) -> list[Finding]:
    """Are they there and as long as they should be; `full`: all of them, and every byte."""
    if not settings.data_dir.exists():
        return []
    try:
        files = open_files(settings)
    except BadSetting as error:
        return [fault("blobs", str(error))]
    count, lost = 0, []
    async for one in blob_care.contents(Store(database), files, deep=full):
        count += 1
        if one is not None:
            lost.append(one)
        if count == SAMPLE and not full:
            break
    what = f"{'the first ' if count == SAMPLE and not full else ''}{count} contents"
    if not lost:
        return [good("blobs", f"{what} are there" + (", every byte" if full else ", each as long as it should be"))]
    named = "; ".join(f"{one.name}: {one.what}" for one in lost[:NAMED])
    return [fault("blobs", f"of {what}, {len(lost)} are missing or damaged: {named}", MEND)]
