"""The relay's methods (protocol, section 4), one function each.

Objects come back as the relay shows them, as plain dicts and lists. All of them raise

    RelayError      the relay refused it; `code` says why
    Interrupted     the connection was lost during a call that changes something: look before you call again
    SessionEnded    there is no session any more
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

JoinPolicy = Literal["open", "invitation", "approval"]
JsonObject = dict[str, Any]
JsonObjects = list[JsonObject]


class Call(Protocol):
    """Calls a method; parameters that are None are left out."""

    async def __call__(self, method: str, /, **params: Any) -> Any: ...


class Projects:
    """`site.projects`. `on_transfer` is told of a project that was handed on, and to whom."""

    def __init__(self, call: Call, on_transfer: Callable[[int, str], None] | None = None) -> None:
        self._call = call
        self._on_transfer = on_transfer

    async def create(
        self,
        name: str,
        *,
        description: str = "",
        tasks: Sequence[JsonObject] = (),
        join_policy: JoinPolicy | None = None,
    ) -> JsonObject:
        """Make a project with this site as its coordinator. A taken name is refused with `exists`.

        Args:
            join_policy: who gets in: `open` (whoever knows the name; left out, this), `invitation` (whoever has a code
                of `site.invitations`), `approval` (whoever knows the name asks, see `site.requests`).
        """
        project: JsonObject = await self._call(
            "projects.create", name=name, description=description, tasks=list(tasks), join_policy=join_policy
        )
        return project

    async def join(self, project: str | int | None = None, *, code: str | None = None, notes: str = "") -> JsonObject:
        """Take part in a project, by its exact name, an invitation's code, or its id. Returns the participation.

        By name, `unknown_project` means: not now. Either there is none, or it does not admit this site, or it admits on
        request: then its coordinator has been asked, and the project is among `site.memberships` once it approves.
        """
        by = {"name": project} if isinstance(project, str) else {"project": project}
        participation: JsonObject = await self._call("projects.join", **by, code=code, notes=notes)
        return participation

    async def get(self, project: int) -> JsonObject:
        """The project, with its `join_policy`."""
        found: JsonObject = await self._call("projects.get", project=project)
        return found

    async def update(
        self,
        project: int,
        *,
        name: str | None = None,
        description: str | None = None,
        tasks: Sequence[JsonObject] | None = None,
        join_policy: JoinPolicy | None = None,
    ) -> JsonObject:
        """Change what is given (coordinator only). Returns the project, with its `join_policy`."""
        given = None if tasks is None else list(tasks)
        changed: JsonObject = await self._call(
            "projects.update", project=project, name=name, description=description, tasks=given, join_policy=join_policy
        )
        return changed

    async def transfer(self, project: int, site: str) -> None:
        """Make another participant, by its uid, the coordinator (coordinator only). This site is a participant then.

        Refused with `conflict` while a batch is open.
        """
        await self._call("projects.transfer", project=project, site=site)
        if self._on_transfer is not None:
            self._on_transfer(project, site)

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
