"""The realm of the black-box tests, on the same running relays."""

from __future__ import annotations

from tests.conformance.conftest import accounts, make_token, realm

__all__ = ["accounts", "make_token", "realm"]
