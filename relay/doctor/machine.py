"""The machine: the disk, who may read what is on it, how much a process may open, and the port."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import socket
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from dotenv import dotenv_values

from relay.blobs.disk import flush_directory
from relay.config import Settings
from relay.doctor.findings import Finding, fault, good, warning

PROBE_BYTES = 1024 * 1024
SLOW_FLUSH_S = 0.1
DESCRIPTORS = 4096
HEALTH_TIMEOUT_S = 3.0
_SECRET = re.compile("PASSWORD|TOKEN$|SECRET|ACCESS_KEY")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def disk(settings: Settings) -> list[Finding]:
    """Room, and that what is written is there: a file is written, flushed, and removed."""
    directory = settings.data_dir
    if not directory.exists():
        return [warning("disk", f"{directory.absolute()} is not there yet", "`starfish-relay serve` makes it")]
    free = shutil.disk_usage(directory).free
    if free < settings.min_free_bytes:
        said = f"{_size(free)} are free on the disk of {directory}, fewer than STARFISH_MIN_FREE_BYTES asks for"
        return [fault("disk", f"full: {said} ({_size(settings.min_free_bytes)})", "make room, or have a larger disk")]
    probe = directory / f".doctor-{uuid.uuid4().hex}"
    try:
        took_s = _write(probe)
    except OSError as error:
        return [_unwritable(directory, error)]
    finally:
        probe.unlink(missing_ok=True)
    said = f"{_size(free)} free; 1 MiB is written and flushed in {took_s * 1000:.0f} ms"
    if took_s > SLOW_FLUSH_S:
        return [warning("disk", said, "each commit waits for a flush: use a faster disk, SSD or with a battery")]
    return [good("disk", said)]


def _write(probe: Path) -> float:
    """Seconds that a durable write takes."""
    begin = time.monotonic()
    with probe.open("xb") as file:
        file.write(os.urandom(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    flush_directory(probe.parent)
    return time.monotonic() - begin


def _unwritable(directory: Path, error: OSError) -> Finding:
    if error.errno in _FULL:
        return fault(
            "disk", f"full: no room for 1 MiB in {directory}: {error.strerror}", "make room, or lift the quota"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        mend = "have the data directory belong to the user that the relay runs as, on a disk that can be written"
        return fault("disk", f"{directory} cannot be written by this user: {error.strerror}", mend)
    return fault("disk", f"{directory} cannot be written: {error.strerror}")


# --- who may read it


def permissions(settings: Settings, database: Path | None) -> list[Finding]:
    """Secrets are for their owner alone: key files and `.env` must be, the data should be."""
    found = []
    for file, what in _secrets():
        if (mode := _open_to_others(file)) is not None:
            said = f"{file}, {what}, is open to others: its mode is {mode:04o}"
            found.append(fault("permissions", said, f"chmod 600 {file}, and replace what is in it if others saw it"))
    closed = (mode := _open_to_others(settings.data_dir)) is None
    for path in [] if closed else [settings.data_dir, *([database] if database else [])]:
        if (mode := _open_to_others(path)) is not None:
            said = f"{path} is open to other users of this machine: its mode is {mode:04o}"
            found.append(warning("permissions", said, f"chmod go= {path}"))
    return found or [good("permissions", "what is secret is for this user alone")]


def _secrets() -> list[tuple[Path, str]]:
    found = []
    if (identity := os.environ.get("STARFISH_IDENTITY")) and Path(identity).is_file():
        found.append((Path(identity), "a site's key file"))
    if any(_SECRET.search(name) or "@" in (value or "") for name, value in dotenv_values(".env").items()):
        found.append((Path(".env"), "which holds passwords"))
    return found


def _open_to_others(path: Path) -> int | None:
    """The mode, if others than the owner may do anything with it."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return stat.S_IMODE(mode) if mode & (stat.S_IRWXG | stat.S_IRWXO) else None


def descriptors() -> list[Finding]:
    """Each session takes one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        said = f"a process may open {soft} files here, and each session is one"
        return [warning("open files", said, "ulimit -n 65536; with systemd: LimitNOFILE=65536")]
    return [good("open files", f"{'any number' if soft == resource.RLIM_INFINITY else soft}")]


# --- the port


async def port(settings: Settings) -> list[Finding]:
    """It is free, or a relay of ours has it."""
    host, number = settings.host, settings.port
    taken = _bind(host, number)
    if taken is None:
        return [good("port", f"{number} of {host} is free: no relay runs there now")]
    if taken.errno != errno.EADDRINUSE:
        return [fault("port", f"{number} of {host} cannot be listened on: {taken.strerror}", "STARFISH_HOST, _PORT")]
    said = await _asked(reachable(host), number)
    if said is not None:
        state = f"{said['status']}, version {said['version']}, node {said['node']}"
        if said["status"] == "ready":
            return [good("port", f"{number} of {host} is served by a relay: {state}")]
        return [fault("port", f"{number} of {host} is served by a relay that is {state}: {said['problems']}")]
    whose = _owner(number)
    mend = "stop that, or choose another port: --port, or STARFISH_PORT"
    return [fault("port", f"{number} of {host} is taken by {whose}, which is no relay", mend)]


def reachable(host: str) -> str:
    """Where a process of this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104


def _bind(host: str, number: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, number))
            trial.listen(1)
        except OSError as error:
            return error
    return None


async def _asked(host: str, number: int) -> dict[str, Any] | None:
    """What a relay says of its health; None if it is no relay that answers."""
    for scheme in ("http", "https"):
        try:
            # Its certificate is for its public name. Nothing is told or trusted here: whose port it is, is asked.
            async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT_S, trust_env=False, verify=False) as http:  # noqa: S501
                said = (await http.get(f"{scheme}://{host}:{number}/health")).json()
        except (httpx.HTTPError, ValueError):
            continue
        if isinstance(said, dict) and {"status", "problems", "version", "node"} <= set(said):
            return said
    return None


def _owner(number: int) -> str:
    """The process that listens on a port, as far as Linux shows it to this user."""
    sockets = _listening(number)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(_link(each) in sockets for each in (process / "fd").iterdir()):
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return f"another process (ss -ltnp 'sport = :{number}')"


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _listening(number: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        rows = [line.split() for line in lines]
        found |= {
            f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == number
        }
    return found


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
