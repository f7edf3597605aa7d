"""Logins, recorded: who was let in for the first time in a while, and who was refused."""

from __future__ import annotations

from relay.core.access import Principal
from relay.core.audit import UNKNOWN, Recorder
from relay.core.audit_chain import Deed

SEEN_FOR_S = 86_400.0
"""A credential that is used from the same address again within this time is no new login."""


class Logins:
    """See the module. One per process."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder

    def succeeded(self, by: Principal, credential: str) -> None:
        """`credential` is a kind, or a kind and an id: never what it is made of."""
        if self._recorder is not None:
            self._recorder.once_in(SEEN_FOR_S, Deed.LOGIN, by, credential=credential)

    def refused(self, account: str | None, credential: str, code: str) -> None:
        """`account` is the name of one that there is; what else was given as a name may be a mistyped password."""
        if self._recorder is not None:
            actor = UNKNOWN if account is None else account
            self._recorder.later(Deed.LOGIN, actor, result=code, credential=credential)
