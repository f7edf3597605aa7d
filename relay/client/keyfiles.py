"""Files that hold a private key: nobody but their owner can read them; a crash leaves the old one or the new one."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

MAX_FILE_BYTES = 16 * 1024


class BadKeyFile(Exception):
    """A file that holds no usable key, or that others can read. The message says which, and what to do."""


def read(path: str | os.PathLike[str]) -> bytes:
    """The file's content.

    Raises:
        BadKeyFile: somebody else may read or write the file, or it is longer than any key file.
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BadKeyFile(
                f"{path}: its mode is {stat.S_IMODE(mode):04o}, so that others can get at it; expected 0600: "
                f"chmod 600 {path}, and replace the key if others have been there"
            )
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise BadKeyFile(f"{path}: expected a key file of at most {MAX_FILE_BYTES} bytes")
    return content


def write_new(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a new file of mode 0600, all of it or nothing.

    Raises:
        FileExistsError: there is one; a key is never overwritten.
        OSError: it cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _write(handle, content)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Put a new content, of mode 0600, in the place of a file's old one.

    Raises:
        OSError: it cannot be written; the old one is still there.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        _write(handle, content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
