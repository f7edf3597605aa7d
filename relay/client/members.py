"""The relay's methods by which a coordinator decides who takes part (protocol, section 4). They raise as those of
`relay.client.methods` do.
"""

from __future__ import annotations

from relay.client.methods import Call, JsonObject, JsonObjects


class Invitations:
    """`site.invitations`: codes for one site each, good once, under every join policy."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def create(self, project: int, *, label: str | None = None, expires_in: float | None = None) -> JsonObject:
        """Make a code: `code` is shown this once. Whoever has it joins by `site.projects.join(code=…)`.

        Args:
            label: for whom it is, in `list`.
            expires_in: seconds, at most 366 days; left out, 7 days.
        """
        made: JsonObject = await self._call("invitations.create", project=project, label=label, expires_in=expires_in)
        return made

    async def list(self, project: int) -> JsonObjects:
        """The invitations with their `state`, without their codes."""
        invitations: JsonObjects = await self._call("invitations.list", project=project)
        return invitations

    async def revoke(self, project: int, invitation: int) -> None:
        """Take a code back that was not used."""
        await self._call("invitations.revoke", project=project, invitation=invitation)


class Requests:
    """`site.requests`: sites that ask to take part, where the join policy is `approval`. `site` is a uid."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def list(self, project: int) -> JsonObjects:
        """Those that wait, the oldest first."""
        requests: JsonObjects = await self._call("requests.list", project=project)
        return requests

    async def approve(self, project: int, site: str) -> JsonObject:
        """Let the site in. Returns its participation."""
        participation: JsonObject = await self._call("requests.approve", project=project, site=site)
        return participation

    async def reject(self, project: int, site: str) -> None:
        """Let it wait no longer. It is not told, and cannot ask again for 30 days."""
        await self._call("requests.reject", project=project, site=site)


class Members:
    """`site.members`: `site` is a uid."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def remove(self, project: int, site: str) -> None:
        """Put a participant out, at once. It comes back only by a code, an approval, or after `unbar`."""
        await self._call("members.remove", project=project, site=site)

    async def barred(self, project: int) -> JsonObjects:
        """The sites that were removed and may not come back by themselves."""
        barred: JsonObjects = await self._call("members.barred", project=project)
        return barred

    async def unbar(self, project: int, site: str) -> None:
        """Let it come back as the join policy says."""
        await self._call("members.unbar", project=project, site=site)
