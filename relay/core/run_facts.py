"""Small facts of runs that never change, and may be remembered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from relay.core.ports import Store

REMEMBERED = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """The project, batch and site of a run: fixed when it is made."""

    project_id: int
    batch: int
    site_id: int


class KnownRuns:
    """The facts of the runs that were last asked for, at most `REMEMBERED`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._facts: OrderedDict[int, RunFacts] = OrderedDict()

    async def get(self, run_id: int) -> RunFacts | None:
        """None: there is no such run. Raises `StorageUnavailable`."""
        facts = self._facts.get(run_id)
        if facts is None:
            async with self._store.snapshot() as tx:
                run = await tx.runs.get(run_id)
            if run is None:
                return None
            facts = RunFacts(project_id=run.project_id, batch=run.batch, site_id=run.site_id)
            self._facts[run_id] = facts
            while len(self._facts) > REMEMBERED:
                self._facts.popitem(last=False)
        return facts
