"""The headers of tus 1.0 (https://tus.io/protocols/resumable-upload): what a client says, read and checked."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import urlsplit

from relay.core.blob_uploads import Checksum
from relay.core.model import Blob
from relay.protocol.errors import ReplyError, invalid

VERSION = "1.0.0"
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "termination",
    "expiration",
    "concatenation",
)
ALGORITHMS = ("sha256", "sha1")
OFFSET_STREAM = "application/offset+octet-stream"

METADATA_BYTES = 8192
FILENAME_LENGTH = 255
MAX_PARTS = 1000
MAX_BYTES = 2**62

_KEY = re.compile(r"[!-+\--~]{1,100}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,80}/[\w.+-]{1,80}", re.ASCII)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class BadVersion(ReplyError):
    """412: the client speaks another version of tus, or says none."""


class BadMediaType(ReplyError):
    """415."""


def require_version(headers: Mapping[str, str]) -> None:
    """Raises `BadVersion`."""
    given = headers.get("tus-resumable")
    if given != VERSION:
        error = invalid(**{"Tus-Resumable": f"expected {VERSION}, got {'none' if given is None else repr(given[:20])}"})
        raise BadVersion(error.code, error.message, error.details)


def number(headers: Mapping[str, str], name: str) -> int | None:
    """A header that counts bytes.

    Raises:
        ReplyError: `invalid`.
    """
    given = headers.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 19) or int(given) > MAX_BYTES:
        raise invalid(**{name: f"a number of bytes, got {given[:40]!r}"})
    return int(given)


def checksum(headers: Mapping[str, str]) -> Checksum | None:
    """Upload-Checksum: an algorithm and a digest.

    Raises:
        ReplyError: `invalid`.
    """
    given = headers.get("upload-checksum")
    if given is None:
        return None
    algorithm, _, text = given.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise invalid(**{"Upload-Checksum": f"one of {', '.join(ALGORITHMS)}, got {algorithm[:40]!r}"})
    digest = _decoded(text.strip())
    if digest is None or len(digest) != hashlib.new(algorithm).digest_size:
        raise invalid(**{"Upload-Checksum": f"the {algorithm} digest, in base64"})
    return Checksum(algorithm=algorithm, digest=digest)


def metadata(header: str) -> dict[str, str]:
    """Upload-Metadata: keys and values.

    Raises:
        ReplyError: `invalid`.
    """
    if len(header) > METADATA_BYTES:
        raise invalid(**{"Upload-Metadata": f"at most {METADATA_BYTES} bytes"})
    found: dict[str, str] = {}
    for pair in header.split(",") if header.strip() else ():
        key, _, text = pair.strip().partition(" ")
        value = _decoded(text.strip())
        if not _KEY.fullmatch(key) or key in found or value is None:
            raise invalid(**{"Upload-Metadata": f"pairs of a key and a value in base64, by commas; at {key[:40]!r}"})
        found[key] = value.decode("utf-8", "replace")
    return found


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def wish(headers: Mapping[str, str], site_id: int) -> Blob:
    """The blob that a creation asks for; not checked against anything that is stored.

    Raises:
        ReplyError: `invalid`, with a reason for each field.
    """
    header, concat = headers.get("upload-metadata", ""), headers.get("upload-concat", "")
    given = metadata(header)
    reasons: dict[str, str] = {}
    project, run = _positive(given, "project", reasons), _positive(given, "run", reasons)
    is_part = concat == "partial"
    if "project" not in given and not is_part:
        reasons["project"] = "required, in Upload-Metadata: the id of the project that it is for"
    sha256 = given.get("sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        reasons["sha256"] = "64 hexadecimal digits"
    if concat and not is_part and not concat.startswith("final;"):
        reasons["Upload-Concat"] = "`partial`, or `final;` and the parts' URLs"
    if reasons:
        raise invalid(**reasons)
    return Blob(
        id="",
        project_id=project,
        site_id=site_id,
        run=run,
        filename=filename(given.get("filename") or given.get("name") or ""),
        media_type=_media_type(given),
        metadata=header,
        concat=concat,
        size=_length(headers, concat),
        sha256=None if sha256 is None else sha256.lower(),
        created_us=0,
    )


def _positive(given: Mapping[str, str], name: str, reasons: dict[str, str]) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19) or int(text) < 1:
        reasons[name] = f"an id, got {text[:40]!r}"
        return None
    return int(text)


def _length(headers: Mapping[str, str], concat: str) -> int | None:
    """How long it will be; None: to be said later.

    Raises:
        ReplyError: `invalid`.
    """
    length, deferred = number(headers, "upload-length"), headers.get("upload-defer-length")
    if concat.startswith("final;"):
        if length is not None or deferred is not None:
            raise invalid(**{"Upload-Length": "not for a final upload: its parts say it"})
        return None
    if deferred is not None and deferred != "1":
        raise invalid(**{"Upload-Defer-Length": "1, or left out"})
    if (length is None) == (deferred is None):
        raise invalid(**{"Upload-Length": "required: how many bytes it will have; or Upload-Defer-Length: 1"})
    return length


def filename(given: str) -> str:
    """What a file is called: the last part of what the client says, without what would confuse a reader."""
    last = given.replace("\\", "/").rpartition("/")[2]
    name = _UNPRINTABLE.sub("", last).strip()
    return name[-FILENAME_LENGTH:] if name.strip(".") else ""


def _media_type(given: Mapping[str, str]) -> str:
    said = given.get("filetype") or given.get("type") or given.get("content-type") or ""
    return said.lower() if _MEDIA_TYPE.fullmatch(said) else "application/octet-stream"


def parts(concat: str, base: str) -> list[str]:
    """The ids in `final;` and the URLs of the parts, absolute or not.

    Raises:
        ReplyError: `invalid`.
    """
    urls = concat.removeprefix("final;").split()
    if not urls or len(urls) > MAX_PARTS:
        raise invalid(**{"Upload-Concat": f"1 to {MAX_PARTS} URLs of parts"})
    try:
        paths = [urlsplit(url).path for url in urls]
    except ValueError:
        paths = [""]
    if not all(path.startswith(base) for path in paths):
        raise invalid(**{"Upload-Concat": f"URLs below {base}"})
    return [path.removeprefix(base).strip("/") for path in paths]


def http_date(at_us: int) -> str:
    """RFC 9110, section 5.6.7."""
    return formatdate(at_us / 1e6, usegmt=True)
