"""An S3-compatible bucket for contents. Serves `relay.core.file_ports.FileStore`; needs the extra `s3`.

What is on its way is on the local disk, as with `relay.blobs.local`: uploads resume there, after a crash too, and are
read along from there. When one is complete it goes to `<prefix>/ab/cd0123…` in the bucket, in parts if it is long, and
only then the database says so. It is sent even if the bucket has the same bytes already: nobody must learn that.

The bucket's credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else the environment offers
(https://developmentseed.org/obstore/latest/authentication/); the relay neither keeps nor shows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from relay.blobs.local import LocalFiles, Verifying, sha256_checked
from relay.core.model import Content, Lying
from relay.core.ports import StorageUnavailable

PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 2
MAX_PARTS = 9_000
"""S3 takes 10,000 parts: of what is longer than 70 GiB they are longer."""
READ_BYTES = 1024 * 1024
"""What one request to the bucket fetches."""
REQUEST_TIMEOUT = timedelta(seconds=60)
CONNECT_TIMEOUT = timedelta(seconds=5)
RETRY_TIMEOUT = timedelta(seconds=15)


class S3Files(LocalFiles):
    """See the module.

    Args:
        root: the local directory, for what is on its way.
        url: `s3://bucket/prefix`.
        endpoint: the service's URL, if it is not Amazon's own.
        redirect: whether downloads are sent to the bucket, by URLs that it signs for a short while.
    """

    def __init__(self, root: Path, url: str, *, endpoint: str, region: str, redirect: bool) -> None:
        super().__init__(root)
        parts = urlsplit(url)
        self._redirect = redirect
        self._bucket = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            region=region or None,
            endpoint=endpoint or None,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "timeout": REQUEST_TIMEOUT,
                "connect_timeout": CONNECT_TIMEOUT,
            },
            retry_config={"max_retries": 3, "retry_timeout": RETRY_TIMEOUT},
        )

    def open(self, sha256: str) -> ObjectReader:
        with _named_errors():
            found = obstore.head(self._bucket, _key(sha256))
        state = (found["e_tag"], found["size"], found["last_modified"])
        return ObjectReader(
            self._bucket, _key(sha256), found["size"], Verifying(self._good, sha256, found["size"], state)
        )

    def location(self, sha256: str, lasts_s: int) -> str | None:
        if not self._redirect:
            return None
        return obstore.sign(self._bucket, "GET", _key(sha256), timedelta(seconds=lasts_s))

    def lying_at(self, sha256: str) -> Path | None:
        return None

    def size(self, sha256: str) -> int:
        with _named_errors():
            return obstore.head(self._bucket, _key(sha256))["size"]

    def contents(self) -> Iterator[Lying]:
        with _named_errors():
            for some in obstore.list(self._bucket):
                for one in some:
                    name = one["path"].replace("/", "")[-64:]
                    if sha256_checked(name):
                        yield Lying(name=name, size=one["size"])

    def drop(self, sha256: str, before_us: int) -> bool:
        with _named_errors(), self._unless_kept() as free:
            try:
                found = obstore.head(self._bucket, _key(sha256))
            except (NotFoundError, FileNotFoundError):
                return False
            if not free or found["last_modified"].timestamp() * 1e6 >= before_us:
                return False
            obstore.delete(self._bucket, _key(sha256))
            return True

    def _shelve(self, path: Path, sha256: str) -> Content:
        size = path.stat().st_size
        part_bytes = max(PART_BYTES, size // MAX_PARTS)
        with _named_errors():
            obstore.put(self._bucket, _key(sha256), path, chunk_size=part_bytes, max_concurrency=PARTS_AT_ONCE)
        return Content(sha256=sha256, size=size)


class ObjectReader:
    """Serves `relay.core.file_ports.Readable`: a request to the bucket fetches more than one piece."""

    def __init__(self, bucket: S3Store, key: str, size: int, verifying: Verifying) -> None:
        self._bucket = bucket
        self._key = key
        self._size = size
        self._verifying = verifying
        self._fetched = b""
        self._from = 0

    def read(self, start: int, count: int) -> bytes:
        if not self._from <= start < self._from + len(self._fetched):
            length = min(READ_BYTES, self._size - start)
            if length <= 0:
                return b""
            with _named_errors():
                self._fetched = bytes(obstore.get_range(self._bucket, self._key, start=start, length=length))
            self._from = start
        piece = self._fetched[start - self._from : start - self._from + count]
        self._verifying.feed(start, piece)
        return piece

    def close(self) -> None:
        self._fetched = b""


def _key(sha256: str) -> str:
    if not sha256_checked(sha256):
        raise ValueError(f"expected the hexadecimal digits of a SHA-256, got {sha256!r:.80}")
    return f"{sha256[:2]}/{sha256[2:]}"


@contextmanager
def _named_errors() -> Iterator[None]:
    """The bucket's errors by the name that the ports have. What it says may name hosts: for the log alone."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise StorageUnavailable(
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
