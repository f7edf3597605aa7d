"""The settings: frozen, from the environment and a `.env` file, each documented where it is defined.

`STARFISH_<NAME>` sets the field `<name>`; `DATABASE_URL`, or the old router's `DATABASE_NAME`, `_USER`, `_PASSWORD`,
`_HOST` and `_PORT`, say where the database is. What stands in the environment goes before what stands in `.env`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values

from relay.core.assertions import DEFAULT_AUDIENCE, DEFAULT_SESSION_S
from relay.core.blob_care import CareLimits
from relay.core.blobs import BlobLimits
from relay.core.hub import TailLimits
from relay.core.node import Limits
from relay.core.outbox import OutboxLimits
from relay.core.presence import PresenceLimits
from relay.core.rate import RateLimits
from relay.core.retention import RetentionLimits
from relay.core.throttle import ThrottleLimits
from relay.core.writer import WriterLimits

MIB = 1024 * 1024


class BadSetting(Exception):
    """A setting that cannot be used. The message names it, what it expects and what it got."""


def setting(default: Any, doc: str, *, least: float | None = None, most: float | None = None, of: Any = None) -> Any:
    """A field with what `check-config` and the documentation say of it."""
    return field(default=default, metadata={"doc": doc, "least": least, "most": most, "of": of})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for all")
    port: int = setting(8000, "port to listen on", least=1, most=65535)
    data_dir: Path = setting(Path("data"), "everything that is stored on disk is under this directory")
    database_url: str = field(
        default="",
        repr=False,
        metadata={
            "doc": "sqlite:///file or postgresql://user:password@host/name; default: relay.db in the data directory"
        },
    )
    migrate: bool = setting(False, "on PostgreSQL: bring an old schema up to date at start (SQLite always does)")
    node: str = setting("", "name of this relay in `welcome`; default: the host's name")
    log_level: str = setting("info", "debug, info, warning or error", of=("debug", "info", "warning", "error"))
    metrics_token: str = field(
        default="",
        repr=False,
        metadata={
            "secret": True,
            "doc": "what a scraper of /metrics sends as its bearer token; operators may anyway",
        },
    )
    log_format: str = setting("text", "text for people, json for machines", of=("text", "json"))
    tls_cert: str = setting("", "PEM file with the relay's certificate and its chain: it serves https and wss itself")
    tls_key: str = setting("", "PEM file with the certificate's key, which others must not be able to read")
    tls_client_ca: str = setting(
        "", "PEM file with the authorities of the certificates that clients may show; TLS is 1.3 then"
    )
    tls_client_certs: str = setting(
        "optional", "required: no connection without such a certificate; or optional", of=("optional", "required")
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "origins, by commas, whose pages may connect besides the relay's own, e.g. https://board.example"
    )
    proxies: str = setting(
        "127.0.0.1", "addresses or networks, by commas, of proxies whose X-Forwarded-* headers are believed; or nothing"
    )
    head_timeout_s: float = setting(
        20.0, "seconds for a request's line and headers, and for a TLS handshake", least=0.1, most=600
    )
    hsts_s: int = setting(
        31_536_000, "seconds for which browsers are to come by TLS only, once they did; 0 does not say so", least=0
    )

    otlp_url: str = setting(
        "", "where traces are sent by OTLP over HTTP, e.g. http://127.0.0.1:4318/v1/traces; needs the extra otel"
    )
    trace_ratio: float = setting(
        1.0, "share of the publishes that are traced whose publisher does not say", least=0, most=1
    )

    audience: str = setting(DEFAULT_AUDIENCE, "what sites with keys make out their assertions to: its URL, say")
    key_session_s: float = setting(
        DEFAULT_SESSION_S, "seconds a session begun with a key goes on without a refresh", least=5, most=366 * 86400
    )
    token_lifetime_s: float = setting(
        0.0, "seconds after which new tokens expire, unless they are made with --expires-in; 0 for never", least=0
    )

    login_failures: int = setting(
        10, "failed logins that are free, of one address for one account; 0 throttles nothing", least=0, most=1_000_000
    )
    login_backoff_s: float = setting(30.0, "seconds that the next one has to wait at most", least=1, most=3600)
    login_address_failures: int = setting(
        100, "failed logins that are free, of one address (IPv6: a /64); then one a second", least=1, most=1_000_000
    )
    login_account_failures: int = setting(
        100, "failed logins for one account, from anywhere, after which strangers are held", least=1, most=1_000_000
    )
    login_hold_s: float = setting(3.0, "seconds for which they are held", least=0, most=30)

    frame_bytes: int = setting(MIB, "longest text frame", least=4096, most=64 * MIB)
    inline_bytes: int = setting(16 * MIB, "longest payload of a binary frame", least=4096, most=256 * MIB)
    sessions_per_site: int = setting(16, "open WebSockets of one site", least=1, most=10_000)
    sessions_per_user: int = setting(20_000, "open WebSockets of all sites of a user", least=1, most=1_000_000)
    arrivals_at_once: int = setting(
        500, "WebSockets between handshake and welcome; the next ones wait in order", least=1, most=100_000
    )
    arrivals_waiting: int = setting(5_000, "handshakes that wait before they are refused: 503", least=1, most=1_000_000)
    publishes_in_flight: int = setting(
        256, "publishes of one session that wait for their commit", least=1, most=100_000
    )
    session_frames: int = setting(20_000, "frames a second of one session", least=1)
    session_bytes: int = setting(512 * MIB, "the same, in bytes", least=1024)
    site_frames: int = setting(40_000, "frames a second of all sessions of a site", least=1)
    site_bytes: int = setting(1024 * MIB, "the same, in bytes", least=1024)
    user_frames: int = setting(0, "frames a second of all sessions of all sites of a user; 0 for any", least=0)
    user_bytes: int = setting(0, "the same, in bytes", least=0)
    hello_timeout_s: float = setting(10.0, "seconds a new session has to say hello", least=0.1, most=600)
    ping_interval_s: float = setting(20.0, "seconds between pings", least=0.5, most=600)
    ping_timeout_s: float = setting(
        10.0, "seconds without a pong or any other byte before a socket is cut", least=0.5, most=600
    )
    outbox_patience_s: float = setting(
        20.0, "seconds a full socket may take no byte before it is closed 4410", least=0.5, most=3600
    )
    outbox_replies: int = setting(1024, "answers that wait for a socket before it is not read any further", least=1)
    outbox_transients: int = setting(1024, "transient events that wait for a socket; the oldest is dropped", least=1)
    tail_entries: int = setting(1024, "newest events of a project kept in memory", least=1)
    tail_bytes: int = setting(8 * MIB, "the same, in bytes", least=1)
    catch_up_reads: int = setting(3, "sessions that read a backlog from the database at once", least=1, most=100)
    queue_entries: int = setting(20_000, "publishes that wait for a commit before they are refused", least=1)
    queue_bytes: int = setting(256 * MIB, "the same, in bytes", least=MIB)

    keep_age_s: float = setting(
        0.0, "seconds an event stays in its journal, and longer until all have acknowledged it; 0 for ever", least=0
    )
    keep_bytes: int = setting(
        0, "bytes of events a journal keeps, and more until all have acknowledged; 0 for any", least=0
    )
    keep_hard_age_s: float = setting(0.0, "seconds after which an event goes, whoever lacks it; 0 for never", least=0)
    keep_hard_bytes: int = setting(0, "bytes past which the oldest events go, whoever lacks them; 0 for any", least=0)
    keep_interval_s: float = setting(60.0, "seconds between looks at what has to go", least=0.05, most=86400)

    presence_grace_s: float = setting(
        10.0, "seconds a site counts as online after its socket dropped", least=0, most=3600
    )
    heartbeat_s: float = setting(60.0, "seconds a heartbeat of a polling site is good for", least=1, most=3600)
    restart_grace_s: float = setting(30.0, "seconds after a start for who was online before it", least=0, most=3600)
    drain_spread_s: float = setting(3.0, "seconds over which sessions are closed at a stop", least=0, most=600)
    stop_timeout_s: float = setting(10.0, "seconds a stop waits for requests under way", least=0.1, most=600)

    database_timeout_s: float = setting(5.0, "seconds to wait for a database connection or lock", least=0.1, most=60)
    database_connections: int = setting(10, "connections to PostgreSQL", least=2, most=1000)
    min_free_bytes: int = setting(64 * MIB, "free disk space under which the relay is not ready", least=0)
    legacy_dwell_s: float = setting(6.0, "seconds for which polls show a run as Preparing at least", least=0, most=600)

    upload_bytes: int = setting(16 * 1024 * MIB, "longest upload of files of a run", least=1024)
    upload_stall_s: float = setting(
        60.0, "seconds without a byte after which a request's body is given up", least=0.1, most=3600
    )
    upload_files: int = setting(16, "files in one upload", least=1, most=1000)
    project_bytes: int = setting(0, "bytes that the files and blobs of a project may take; 0 for any", least=0)
    site_blob_bytes: int = setting(0, "bytes that the blobs of one site may take; 0 for any", least=0)
    blob_bytes: int = setting(1024**4, "longest blob", least=1024)
    blob_uploads: int = setting(256, "unfinished uploads of one site", least=1, most=100_000)
    blob_expires_s: float = setting(
        86_400.0, "seconds after which an unfinished upload is dropped; it counts anew as the upload goes on", least=1
    )
    blob_keep_s: float = setting(604_800.0, "seconds that a blob is kept to which no event refers", least=0)
    blob_collect_s: float = setting(
        3600.0, "seconds between two looks for blobs that nobody needs any more", least=0.1, most=86_400
    )
    s3_url: str = setting("", "s3://bucket/prefix for complete blobs; default: the data directory")
    s3_endpoint: str = setting("", "URL of the S3 service, if it is not Amazon's; credentials: AWS_ACCESS_KEY_ID, …")
    s3_region: str = setting("", "the bucket's region")
    s3_redirect: bool = setting(True, "send downloads to the bucket, by URLs that are signed for a short while")
    blob_patience_s: float = setting(
        60.0, "seconds in which an upload or a download must move before it is cut off", least=0.5, most=3600
    )

    def __post_init__(self) -> None:
        if not self.database_url:
            path = (self.data_dir / "relay.db").absolute()
            object.__setattr__(self, "database_url", f"sqlite:///{path}")
        if not self.node:
            object.__setattr__(self, "node", os.uname().nodename)
        scheme = urlsplit(self.database_url).scheme
        if scheme not in ("sqlite", "postgresql", "postgres"):
            raise BadSetting(f"DATABASE_URL: expected sqlite:///… or postgresql://…, got {scheme or 'no scheme'}://…")
        if self.s3_url and not (self.s3_url.startswith("s3://") and urlsplit(self.s3_url).netloc):
            raise BadSetting(f"STARFISH_S3_URL: expected s3://bucket/prefix, got {self.s3_url!r}")
        if self.otlp_url and urlsplit(self.otlp_url).scheme not in ("http", "https"):
            raise BadSetting(f"STARFISH_OTLP_URL: expected http://… or https://…, got {self.otlp_url!r}")
        if bool(self.tls_cert) != bool(self.tls_key):
            missing = "STARFISH_TLS_KEY" if self.tls_cert else "STARFISH_TLS_CERT"
            raise BadSetting(f"{missing}: expected a PEM file, as the other of the two is set, got nothing")
        if self.tls_client_ca and not self.tls_cert:
            raise BadSetting("STARFISH_TLS_CERT: expected a PEM file, as STARFISH_TLS_CLIENT_CA is set, got nothing")
        if self.tls_client_certs == "required" and not self.tls_client_ca:
            raise BadSetting("STARFISH_TLS_CLIENT_CA: expected a PEM file, as certificates are required, got nothing")
        _check_proxies(self.proxies)
        for one in fields(self):
            _check(one.name, getattr(self, one.name), one.metadata)

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.startswith("sqlite")

    @property
    def database_shown(self) -> str:
        """The database's URL without its password."""
        parts = urlsplit(self.database_url)
        if parts.password is None:
            return self.database_url
        return self.database_url.replace(f":{parts.password}@", ":…@", 1)

    @property
    def blob_limits(self) -> BlobLimits:
        return BlobLimits(
            blob_bytes=self.blob_bytes,
            project_bytes=self.project_bytes,
            site_bytes=self.site_blob_bytes,
            open_uploads=self.blob_uploads,
            expires_s=self.blob_expires_s,
        )

    @property
    def blob_care(self) -> CareLimits:
        return CareLimits(keep_s=self.blob_keep_s, interval_s=self.blob_collect_s)

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a browser's page of this origin may connect: the relay's own, or one that is named."""
        return origin in self.allowed_origins or urlsplit(origin).netloc == host

    @property
    def retention(self) -> RetentionLimits:
        """How long the journals are kept."""
        return RetentionLimits(
            age_s=self.keep_age_s,
            bytes=self.keep_bytes,
            hard_age_s=self.keep_hard_age_s,
            hard_bytes=self.keep_hard_bytes,
            interval_s=self.keep_interval_s,
        )

    @property
    def throttle(self) -> ThrottleLimits:
        """How failed logins are slowed down."""
        return ThrottleLimits(
            failures=self.login_failures,
            backoff_s=self.login_backoff_s,
            address_failures=self.login_address_failures,
            account_failures=self.login_account_failures,
            hold_s=self.login_hold_s,
        )

    @property
    def limits(self) -> Limits:
        """The core's bounds."""
        return Limits(
            tail=TailLimits(entries=self.tail_entries, bytes=self.tail_bytes),
            outbox=OutboxLimits(
                replies=self.outbox_replies, transients=self.outbox_transients, patience_s=self.outbox_patience_s
            ),
            writer=WriterLimits(queue_entries=self.queue_entries, queue_bytes=self.queue_bytes),
            presence=PresenceLimits(
                grace_s=self.presence_grace_s, heartbeat_s=self.heartbeat_s, restart_grace_s=self.restart_grace_s
            ),
            rate=RateLimits(
                session_frames=self.session_frames,
                session_bytes=self.session_bytes,
                site_frames=self.site_frames,
                site_bytes=self.site_bytes,
                user_frames=self.user_frames,
                user_bytes=self.user_bytes,
            ),
            text_bytes=self.frame_bytes,
            payload_bytes=self.inline_bytes,
            sessions_per_site=self.sessions_per_site,
            sessions_per_user=self.sessions_per_user,
            publishes_in_flight=self.publishes_in_flight,
            catch_up_reads=self.catch_up_reads,
        )


def load(environ: Mapping[str, str] | None = None, *, env_file: Path = Path(".env"), **given: Any) -> Settings:
    """The settings of this process. What is `given` (by the command line; None is not given) goes before all else.

    Raises:
        BadSetting: a value cannot be read or is out of range, or a STARFISH_ name is none of ours.
    """
    environ = os.environ if environ is None else environ
    values = {name: value for name, value in dotenv_values(env_file).items() if value is not None} | dict(environ)
    known = {one.name: one for one in fields(Settings)}
    chosen: dict[str, Any] = {}
    for name, value in values.items():
        own = name.removeprefix("STARFISH_").lower()
        if name.startswith("STARFISH_") and own in known and own != "database_url":
            chosen[own] = _read(name, value, known[own].default)
    chosen["database_url"] = values.get("DATABASE_URL") or _old_names(values)
    chosen |= {name: value for name, value in given.items() if value is not None}
    return Settings(**chosen)


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """STARFISH_ names in the environment that mean nothing: misspelt, perhaps."""
    known = {f"STARFISH_{one.name.upper()}" for one in fields(Settings)} | FOR_COMMANDS.keys()
    return sorted(name for name in environ if name.startswith("STARFISH_") and name not in known)


FOR_COMMANDS: Mapping[str, str] = {
    "STARFISH_IDENTITY": "the file with the site's identity, for `keys`, `send`, `fetch` and `logs`",
    "STARFISH_PASSWORD": "the operator's password, for `status`",
    "STARFISH_SUPERUSER_PASSWORD": "the password that `createsuperuser --no-input` takes",
    "STARFISH_TOKEN": "the site's token, for the commands that a site runs",
    "STARFISH_URL": "the relay that they speak to, such as https://relay.example",
    "STARFISH_USER": "the operator who asks, for `status`",
    "STARFISH_USER_PASSWORD": "the password that `user create --no-input` and `user passwd --no-input` take",
}
"""Names that single commands read, and what each is."""


def _old_names(values: Mapping[str, str]) -> str:
    """The URL of the database that the old router's five names say, or nothing."""
    name = values.get("DATABASE_NAME")
    if not name:
        return ""
    user, password = values.get("DATABASE_USER", ""), values.get("DATABASE_PASSWORD", "")
    host, port = values.get("DATABASE_HOST", "localhost"), values.get("DATABASE_PORT", "5432")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
    return f"postgresql://{login}{host}:{port}/{quote(name, safe='')}"


def _read(name: str, value: str, default: Any) -> Any:
    try:
        match default:
            case bool():
                return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
            case int():
                return int(value)
            case float():
                return float(value)
            case Path():
                return Path(value)
            case tuple():
                return tuple(part.strip() for part in value.split(",") if part.strip())
            case _:
                return value
    except (ValueError, KeyError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise BadSetting(f"{name}: expected {expected}, got {value!r}") from None


def _check_proxies(given: str) -> None:
    """No `*`, and no host's name: the one would have anybody believed, and the other nobody."""
    for part in filter(None, (part.strip() for part in given.split(","))):
        try:
            ip_network(part)
        except ValueError:
            expected = "addresses or networks, such as 127.0.0.1,10.0.0.0/8"
            raise BadSetting(f"STARFISH_PROXIES: expected {expected}, got {part!r}") from None


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    least, most, of = metadata.get("least"), metadata.get("most"), metadata.get("of")
    if (least is not None and not value >= least) or (most is not None and not value <= most):
        span = f"{least:g} or more" if most is None else f"{least:g} to {most:g}"
        raise BadSetting(f"STARFISH_{name.upper()}: expected {span}, got {value!r}")
    if of is not None and value not in of:
        raise BadSetting(f"STARFISH_{name.upper()}: expected one of {', '.join(of)}, got {value!r}")
