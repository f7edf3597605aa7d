"""B9: what sealing costs, beside ChaCha20-Poly1305 alone and a plain copy of the same bytes."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from benchmarks.harness import Report, options
from relay.client.sealed import Identity, envelope
from relay.client.sealed.envelope import Header

SIZES = {"300 B": 300, "1 MB": 1_000_000, "16 MB": 16_000_000}
ADDRESSEES = 19
UID = "00000000-0000-4000-8000-{:012}"


def main() -> None:
    report = Report(
        title="B9  sealing an event for 1 addressee, and opening it",
        columns=("", "seal", "open", "ChaCha20-Poly1305", "SHA-256", "copy", "seal ×", "open ×", "longer by"),
    )
    for name, size in SIZES.items():
        _row(report, name, bytes(size), 1)
    _row(report, f"1 MB, {ADDRESSEES} addressees", bytes(1_000_000), ADDRESSEES)
    report.say()


def _row(report: Report, name: str, content: bytes, addressees: int) -> None:
    anna, others = Identity.generate(), [Identity.generate() for _ in range(addressees)]
    keys = [one.public for one in others]
    to = tuple(UID.format(number) for number in range(addressees))
    header = Header(
        project=12, kind="update", id=UID.format(0), sender=UID.format(99), to=to, key=anna.public.id,
        at=datetime.now(UTC), content="bytes", run=3, batch=1, round=2,
    )  # fmt: skip
    sealed = envelope.seal(header, content, anna, keys)
    cipher, nonce = ChaCha20Poly1305(ChaCha20Poly1305.generate_key()), bytes(12)

    def opened() -> None:
        read = envelope.read(sealed)
        envelope.check(read, anna.public)
        envelope.open_body(read, others[0])

    works: list[Callable[[], object]] = [
        lambda: envelope.seal(header, content, anna, keys),
        opened,
        lambda: cipher.encrypt(nonce, content, None),
        lambda: hashlib.sha256(content).digest(),
        lambda: bytearray(content),
    ]
    rounds = [[_seconds(work) for work in works] for _ in range(options().pick(31, 3))]
    seal, open_, bare, hashed, copied = (statistics.median(times) for times in zip(*rounds, strict=True))
    longer = len(sealed) - len(content)
    report.row(
        name,
        *(_rate(seconds, len(content)) for seconds in (seal, open_, bare, hashed, copied)),
        f"{statistics.median(times[0] / times[2] for times in rounds):.1f}",
        f"{statistics.median(times[1] / times[2] for times in rounds):.1f}",
        f"{longer:,} B" + (f", {longer / len(content):.2%}" if len(content) >= 1_000_000 else ""),
    )
    if len(content) >= 1_000_000:
        share = longer / len(content)
        report.at_most(f"{name}: longer by ≤ 5 %", 0.05, share, f"{share:.2%}")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rate(seconds: float, size: int) -> str:
    return f"{size / seconds / 1e6:,.0f} MB/s" if size >= 1_000_000 else f"{seconds * 1e6:,.0f} µs"


if __name__ == "__main__":
    main()
