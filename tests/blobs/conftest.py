"""The realm of the black-box tests, on the same running relays."""

from __future__ import annotations

from tests.conformance.conftest import make_token, realm

__all__ = ["make_token", "realm"]
