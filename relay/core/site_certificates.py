"""Sites that are bound to TLS client certificates: bind, list, unbind; and the rule of who is let in.

A site with none bound is let in by its token, key or password. One that has any is so only over a connection on which
the client has shown one of them, whatever else it has. What a connection has shown comes from its TLS alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from relay.core import audit
from relay.core.audit_chain import Deed
from relay.core.model import Site, SiteCertificate
from relay.core.ports import AlreadyThere, Store
from relay.protocol.errors import ErrorCode, ReplyError, forbidden, invalid, unknown_site

PER_SITE = 8
"""Certificates of one site at once: enough to change them one by one."""
NONE: frozenset[str] = frozenset()
MISSING = "this site is bound to client certificates: connect by TLS, to the relay itself, with one of them"


def lets_in(bound: frozenset[str], shown: str | None) -> bool:
    """Whether a site that is bound to these is let in where this one was shown. Fingerprints, as `fingerprint` has."""
    return not bound or shown in bound


def require(bound: frozenset[str], shown: str | None) -> None:
    """Raises `ReplyError`: `forbidden`, the site is not let in."""
    if not lets_in(bound, shown):
        raise forbidden(MISSING)


def require_all(bound: Mapping[int, frozenset[str]], shown: str | None) -> None:
    """For who acts for several sites at once. Raises `ReplyError`: `forbidden`, one of them is not let in."""
    if not all(lets_in(of_site, shown) for of_site in bound.values()):
        raise forbidden(
            "one of this user's sites is bound to client certificates: connect by TLS, to the relay itself, with one"
            " that it is bound to, or have the site owned by a user of its own"
        )


def fingerprint(pem: bytes) -> str:
    """SHA-256 of a PEM's first certificate in DER, 64 hex digits.

    Raises:
        ReplyError: `invalid`.
    """
    try:
        return x509.load_pem_x509_certificate(pem).fingerprint(SHA256()).hex()
    except ValueError:
        raise invalid(cert="a PEM file that begins with the site's certificate") from None


def as_fingerprint(text: str) -> str:
    """What somebody has typed, as `fingerprint` has it: colons and capitals are as good. Raises `invalid`."""
    digits = text.replace(":", "").strip().lower()
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise invalid(sha256="64 hex digits")
    return digits


async def add(store: Store, *, site_uid: str, sha256: str, label: str, now_us: int) -> SiteCertificate:
    """Bind a site to a certificate, besides those that it is bound to.

    Raises:
        ReplyError: `unknown_site`; `exists`, it is bound to this one; `invalid`, it is bound to too many.
    """
    try:
        async with store.transaction() as tx:
            site = await tx.sites.by_uid(site_uid.lower())
            if site is None:
                raise unknown_site()
            bound = (await tx.site_certificates.of_sites([site.id])).get(site.id, NONE)
            if len(bound - {sha256}) >= PER_SITE:
                raise invalid(site=f"it is bound to {len(bound)} certificates; remove one first")
            certificate = SiteCertificate(site_id=site.id, sha256=sha256, label=label, created_us=now_us)
            await tx.site_certificates.add(certificate)
            await audit.record(tx, now_us, Deed.CERT_ADD, None, f"site:{site.uid}", cert=sha256)
    except AlreadyThere:
        raise ReplyError(ErrorCode.EXISTS, "the site is bound to this certificate") from None
    return certificate


async def listing(store: Store, site_uid: str | None) -> list[tuple[SiteCertificate, Site]]:
    """All that sites are bound to, or one site is.

    Raises:
        ReplyError: `unknown_site`.
    """
    async with store.snapshot() as tx:
        bound = await tx.site_certificates.all()
        sites = await tx.sites.many(list({one.site_id for one in bound}))
        if site_uid is not None and await tx.sites.by_uid(site_uid.lower()) is None:
            raise unknown_site()
    pairs = [(one, sites[one.site_id]) for one in bound]
    return [pair for pair in pairs if site_uid is None or pair[1].uid == site_uid.lower()]


async def remove(store: Store, sha256: str, now_us: int) -> tuple[list[Site], list[Site]]:
    """Unbind a certificate from all sites: which they were, and those of them that are bound to none any more."""
    async with store.transaction() as tx:
        site_ids = await tx.site_certificates.remove(sha256)
        sites = await tx.sites.many(site_ids)
        for site in sites.values():
            await audit.record(tx, now_us, Deed.CERT_REMOVE, None, f"site:{site.uid}", cert=sha256)
        left = await tx.site_certificates.of_sites(site_ids)
    return _ordered(sites.values()), _ordered(site for site in sites.values() if site.id not in left)


def _ordered(sites: Iterable[Site]) -> list[Site]:
    return sorted(sites, key=lambda site: site.id)
