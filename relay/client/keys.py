"""A site's own key: it signs in with what it signs itself, and no secret is ever handed out, copied or mailed.

    key = SiteKey.generate()
    key.save("/var/lib/site/relay.pem")           # readable by its owner alone
    print(key.public)                             # to the operator: starfish-relay site-key add --site UID KEY

    key = SiteKey.load("/var/lib/site/relay.pem")
    site = Site(url, token=key.token("https://relay.example", site=uid))

What is signed is good for five minutes and for one request (RFC 7523), so a site that has been away for a week signs in
without anybody's doing. Needs the extra `keys`: `pip install 'starfish-relay[keys]'`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from relay.client import keyfiles
from relay.client.keyfiles import BadKeyFile

__all__ = ["BadKeyFile", "SiteKey"]

LIFETIME_S = 240
"""A minute less than a relay accepts, for clocks that differ."""


class SiteKey:
    """An Ed25519 key pair. Its private half is shown by nothing but `save`."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private = private_key
        raw = private_key.public_key().public_bytes_raw()
        self.public = base64.b64encode(raw).decode("ascii")
        """The public key, as the relay's command line takes it."""
        self.id = hashlib.sha256(_json({"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)})).hexdigest()[:32]
        """The first half of its thumbprint (RFC 7638): by this id the relay lists and revokes it."""

    def __repr__(self) -> str:
        return f"<SiteKey {self.id}>"

    @classmethod
    def generate(cls) -> SiteKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SiteKey:
        """Read a key from a PEM file (PKCS 8, as `openssl genpkey -algorithm ed25519` writes it too).

        Raises:
            BadKeyFile: somebody else may read or write the file, or there is no Ed25519 key in it.
            OSError: it cannot be read.
        """
        pem = keyfiles.read(path)
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise BadKeyFile(f"{path}: expected a private key in PEM without a password") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKeyFile(f"{path}: expected an Ed25519 key, got {type(key).__name__.strip('_')}")
        return cls(key)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a new file of mode 0600, all of it or nothing.

        Raises:
            FileExistsError: there is one; a key is never overwritten.
            OSError: it cannot be written.
        """
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        keyfiles.write_new(path, pem)

    def assertion(self, audience: str, *, site: str) -> str:
        """A signed JWT that says: this is `site` (a uid), to the relay of this `audience`. Good once, for minutes."""
        now = int(time.time())
        claims = {
            "iss": site,
            "sub": site,
            "aud": audience,
            "iat": now,
            "exp": now + LIFETIME_S,
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": "EdDSA", "typ": "JWT", "kid": self.id}
        signed = f"{_base64url(_json(header))}.{_base64url(_json(claims))}"
        return f"{signed}.{_base64url(self._private.sign(signed.encode('ascii')))}"

    def token(self, audience: str, *, site: str) -> Callable[[], str]:
        """What a client asks for a credential each time it needs one: a new assertion at every call."""
        return lambda: self.assertion(audience, site=site)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
