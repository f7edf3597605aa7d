"""What `status` does: how a relay is, asked of the relay itself, as an operator; once, or as it changes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import json
import os
import re
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from relay.cli import at_site, words
from relay.cli.at_site import Wrong
from relay.cli.printed import escaped
from relay.client.feeds import sent_events
from relay.client.limits import Limits, backoff
from relay.client.proxies import proxy_for
from relay.client.transport import Disconnected, api_url, socket_url

PATH = "status/"
SILENCE_S = 15.0
"""The relay says something at least every 5 s."""
MESSAGE_BYTES = 8 * 1024 * 1024
_EPILOG = """\
examples:
  export STARFISH_URL=https://relay.example STARFISH_USER=root
  starfish-relay status                            as it changes, until q; asks for the password
  starfish-relay status --once                     as it is now
  STARFISH_PASSWORD=… starfish-relay status --json | jq .events_per_s

It is for operators: `starfish-relay createsuperuser` makes one. The password is asked for, or taken from
$STARFISH_PASSWORD, never from the command line, which other users of a machine can read. The same can be seen in a
browser, at /status.
"""
_UP, _DOWN, _PAGE_UP, _PAGE_DOWN = b"\x1b[A", b"\x1b[B", b"\x1b[5~", b"\x1b[6~"
_KEYS = re.compile(rb"\x1b\[[\d;]*[A-Za-z~]|.", re.DOTALL)
"""What is typed fast comes together."""
_SCROLL = {_UP: -1, b"k": -1, _DOWN: 1, b"j": 1, _PAGE_UP: -10, _PAGE_DOWN: 10, b" ": 10}


def add_status(parser: argparse.ArgumentParser) -> None:
    words.command(parser, status, "", storage=False)
    parser.description = "Show sites, projects and runs, how fast it goes and who lags: as it changes, on a terminal."
    parser.epilog = _EPILOG
    parser.add_argument(
        "--url", metavar="URL", help="the relay's, such as https://relay.example; default: $STARFISH_URL"
    )
    parser.add_argument("--user", metavar="NAME", help="an operator; default: $STARFISH_USER")
    once = parser.add_mutually_exclusive_group()
    once.add_argument("--once", action="store_true", help="show it as it is now, and end (as without a terminal)")
    once.add_argument("--json", action="store_true", help="print it as it is now as one JSON object, for programs")


def status(options: argparse.Namespace) -> int:
    relay = _Relay(options)
    if options.json:
        print(escaped(json.dumps(asyncio.run(relay.look()), ensure_ascii=False, indent=2)))
        return 0
    try:
        from rich.console import Console

        from relay.cli import board
    except ModuleNotFoundError as missing:
        raise Wrong(f"{missing.name} is not installed", "--json works without it; or pip install rich") from None
    if options.once or not sys.stdout.isatty():
        console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
        console.print(board.whole(board.View(seen=asyncio.run(relay.look())), console.width))
        return 0
    asyncio.run(_Screen(relay).run())
    return 0


class _Relay:
    """Where it is, and who asks. The password is in no message."""

    def __init__(self, options: argparse.Namespace) -> None:
        url = options.url or os.environ.get("STARFISH_URL")
        if not url:
            raise Wrong("which relay?", "give --url https://relay.example, or set STARFISH_URL")
        try:
            socket = socket_url(url)
            self._proxy = proxy_for(socket, True)
        except ValueError as error:
            raise Wrong(str(error), "--url is such as https://relay.example, or http://127.0.0.1:8000") from None
        self._url = api_url(socket)
        self._auth = _credentials(options)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            auth=self._auth,
            verify=ssl.create_default_context() if self._url.startswith("https:") else False,
            proxy=None if self._proxy is None else self._proxy.url,
            trust_env=False,
            timeout=httpx.Timeout(SILENCE_S, connect=10.0),
        )

    async def look(self) -> dict[str, Any]:
        async with self.client() as http:
            try:
                answer = await http.get(PATH)
            except httpx.HTTPError as error:
                raise _NotReached(_why(error)) from None
            _require_good(answer)
            return _account(answer.content)

    async def stream(self) -> AsyncIterator[dict[str, Any]]:
        """What the relay tells, until the connection is lost. An empty one: nothing has changed."""
        async with self.client() as http:
            try:
                async with http.stream("GET", PATH, headers={"Accept": "text/event-stream"}) as answer:
                    if not answer.is_success:
                        await answer.aread()
                    _require_good(answer)
                    async for _, data in sent_events(answer.aiter_raw(), asyncio.Event(), MESSAGE_BYTES):
                        yield {} if data == b"{}" else _account(data)
            except (httpx.HTTPError, Disconnected) as error:
                raise _NotReached(_why(error)) from None


class _NotReached(Exception):
    """It may be there again soon."""


def _credentials(options: argparse.Namespace) -> tuple[str, str]:
    user = options.user or os.environ.get("STARFISH_USER")
    is_terminal = sys.stdin.isatty()
    if not user and is_terminal:
        user = input("Operator: ").strip()
    if not user:
        raise Wrong("as which operator?", "give --user NAME, or set STARFISH_USER")
    password = os.environ.get("STARFISH_PASSWORD")
    if not password and is_terminal:
        password = getpass.getpass("Password: ")
    if not password:
        raise Wrong("STARFISH_PASSWORD is not set", "it is the operator's; at a terminal it is asked for")
    return user, password


def _require_good(answer: httpx.Response) -> None:
    status = answer.status_code
    if status == 401:
        raise Wrong("the relay does not know this user and password", "STARFISH_USER and STARFISH_PASSWORD, or --user")
    if status == 403:
        raise Wrong("the relay shows this to operators only", "`starfish-relay createsuperuser` makes an operator")
    if status == 404:
        raise Wrong("nothing is found at this URL", "is there a relay, and is it up to date?")
    if not answer.is_success:
        raise _NotReached(f"HTTP {status}: {_said(answer)}")


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])[:200]
    except (ValueError, LookupError, TypeError):
        return answer.reason_phrase


def _account(body: bytes) -> dict[str, Any]:
    try:
        seen = json.loads(body)
        if isinstance(seen, dict) and isinstance(seen.get("projects"), list):
            return seen
    except ValueError:
        pass
    raise Wrong("what answers at this URL is no relay", "is it the right one?")


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


# --- as it changes


class _Screen:
    """The whole terminal, until q or Ctrl-C. It is left as it was found."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay
        self._seen: dict[str, Any] = {}
        self._seen_at = self._heard_at = time.monotonic()
        self._top = 0
        self._over = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Raises `Wrong`, `_NotReached`: before anything was seen."""
        from rich.console import Console
        from rich.live import Live

        self._seen, self._seen_at = await self._relay.look(), time.monotonic()
        console = Console(highlight=False, markup=False)
        listening = asyncio.create_task(self._listen())
        loop = asyncio.get_running_loop()
        try:
            with _keys(self._key), Live(console=console, screen=True, auto_refresh=False) as live:
                loop.add_signal_handler(signal.SIGWINCH, self._changed.set)
                while not self._over.is_set() and not listening.done():
                    self._changed.clear()
                    live.update(self._drawn(console), refresh=True)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await self._changed.wait()
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            if not listening.done():
                listening.cancel()
            result = await asyncio.gather(listening, return_exceptions=True)
        if isinstance(result[0], Exception):
            raise result[0]

    def _drawn(self, console: Any) -> Any:
        from relay.cli import board

        width, height = console.size
        now = time.monotonic()
        view = board.View(seen=self._seen, age_s=now - self._seen_at, silent_s=now - self._heard_at, top=self._top)
        drawn, self._top = board.draw(console, view, width=width, height=height)
        return drawn

    async def _listen(self) -> None:
        attempt = 0
        while True:
            try:
                async for seen in self._relay.stream():
                    self._heard_at, attempt = time.monotonic(), 0
                    if seen:
                        self._seen, self._seen_at = seen, self._heard_at
                        self._changed.set()
            except _NotReached:
                pass
            await asyncio.sleep(backoff(Limits(), attempt, None))
            attempt += 1

    def _key(self, typed: bytes) -> None:
        for key in _KEYS.findall(typed):
            if key in (b"q", b"Q"):
                self._over.set()
            self._top = max(0, self._top + _SCROLL.get(key, 0))
        self._changed.set()


@contextmanager
def _keys(pressed: Any) -> Iterator[None]:
    """Have what is typed told key by key, as long as the block lasts."""
    try:
        import termios
        import tty
    except ModuleNotFoundError:  # Windows: Ctrl-C ends it
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    loop = asyncio.get_running_loop()
    tty.setcbreak(file)
    loop.add_reader(file, lambda: pressed(os.read(file, 16)))
    try:
        yield
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def guarded(command: words.Run, options: argparse.Namespace) -> int:
    """Run the command; what people can act on is told in words."""
    try:
        return command(options)
    except KeyboardInterrupt:
        return at_site.INTERRUPTED
    except _NotReached as error:
        at_site.fail(f"the relay was not reached: {error}", "is the URL right, and the relay up? Then call it again")
        return at_site.TEMPORARY
    except (Wrong, OSError) as error:
        return at_site.told(error)
