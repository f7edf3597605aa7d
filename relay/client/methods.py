"""The relay's methods (protocol, section 4), one function each.

Objects come back as the relay shows them, as plain dicts and lists. All of them raise

    RelayError      the relay refused it; `code` says why
    Interrupted     the connection was lost during a call that changes something: look before you call again
    SessionEnded    there is no session any more
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

JsonObject = dict[str, Any]
JsonObjects = list[JsonObject]


class Call(Protocol):
    """Calls a method; parameters that are None are left out."""

    async def __call__(self, method: str, /, **params: Any) -> Any: ...


class Projects:
    """`site.projects`"""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create(self, name: str, *, description: str = "", tasks: Sequence[JsonObject] = ()) -> JsonObject:
        """Make a project with this site as its coordinator. A taken name is refused with `exists`."""
        project: JsonObject = await self._call("projects.create", name=name, description=description, tasks=list(tasks))
        return project

    async def join(self, project: str | int, *, notes: str = "") -> JsonObject:
        """Take part in a project, by its exact name (which is the invitation) or its id. Returns the participation."""
        by = {"name": project} if isinstance(project, str) else {"project": project}
        participation: JsonObject = await self._call("projects.join", **by, notes=notes)
        return participation

    async def leave(self, project: int) -> None:
        await self._call("projects.leave", project=project)

    async def list(self) -> JsonObjects:
        """The site's participations."""
        participations: JsonObjects = await self._call("projects.list")
        return participations

    async def participants(self, project: int) -> JsonObjects:
        """Who takes part, each with `online`. A participant is shown itself and the coordinator."""
        participants: JsonObjects = await self._call("projects.participants", project=project)
        return participants


class Runs:
    """`site.runs`"""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def start(self, project: int, *, policy: Mapping[str, Any] | None = None) -> JsonObject:
        """Start a batch (coordinator only): `{"batch": number, "runs": [run, …]}`.

        Refused with `not_all_connected` unless all are there, or `policy` (`min_sites`, `deadline_s`) is met; with
        `conflict` while a batch is open.
        """
        started: JsonObject = await self._call("runs.start", project=project, policy=policy)
        return started

    async def stop(
        self, *, run: int | None = None, project: int | None = None, batch: int | None = None
    ) -> JsonObjects:
        """Stop the site's own run, or (coordinator) the whole batch of a project. Returns the runs."""
        runs: JsonObjects = await self._call("runs.stop", run=run, project=project, batch=batch)
        return runs

    async def restart(
        self, *, run: int | None = None, project: int | None = None, batch: int | None = None
    ) -> JsonObjects:
        """Set the site's own run, or (coordinator) the whole batch of a project, to Standby. Returns the runs."""
        runs: JsonObjects = await self._call("runs.restart", run=run, project=project, batch=batch)
        return runs

    async def status(
        self, run: int, status: str | int, *, increase_round: bool | None = None, update_all: bool | None = None
    ) -> Any:
        """Move a run, e.g. to `"Running"`. A transition that there is not is a `conflict` (`details`: from, to).

        Args:
            update_all: (coordinator) set all runs of the batch, whatever they stand in.
            increase_round: (coordinator) count the round up in all runs of the batch first.
        """
        return await self._call(
            "runs.status", run=run, status=status, increase_round=increase_round, update_all=update_all
        )

    async def list(self, project: int, *, batch: int | None = None, active: bool | None = None) -> JsonObjects:
        """The runs of a project (a participant's own), of one batch or all. `active`: neither Failed nor Success."""
        runs: JsonObjects = await self._call("runs.list", project=project, batch=batch, active=active)
        return runs


class Keys:
    """`site.keys`: public keys, base64, by name."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def put(self, keys: Mapping[str, str]) -> None:
        """Set this site's own keys, for all its projects."""
        await self._call("keys.put", keys=dict(keys))

    async def get(self, project: int) -> dict[str, Any]:
        """Keys by site uid, of the members that this site may see."""
        keys: dict[str, Any] = await self._call("keys.get", project=project)
        return keys
