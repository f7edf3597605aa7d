"""A headless Chromium, driven by the Chrome DevTools protocol over its WebSocket.

What the browser complains about — errors on the console, refusals of the content security policy, requests that fail —
is kept in `Page.complaints`. A relay that is not there for a while is no complaint: `Page.forgive` forgets those.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 30.0
NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_UNTIL = """new Promise((found, failed) => {{
    const is = () => {{ try {{ return {condition}; }} catch {{ return false; }} }};
    if (is()) return found(true);
    const seen = new MutationObserver(() => {{ if (is()) {{ seen.disconnect(); found(true); }} }});
    seen.observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
    setTimeout(() => {{ seen.disconnect(); found(is()); }}, {timeout_ms});
}})"""

Json = dict[str, Any]


def executable() -> str | None:
    """Where a Chromium is on this machine; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A tab. `login` is what it answers when the relay asks for one, as a person would in the browser's dialogue."""

    def __init__(self, connection: ClientConnection, login: tuple[str, str]) -> None:
        self.complaints: list[str] = []
        self.asked_for_login = 0
        self._connection = connection
        self._login = login
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._loaded = asyncio.Event()

    async def listen(self) -> None:
        """Take what the browser says, until it is gone."""
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(message)
            else:
                await self._happened(message["method"], message["params"])

    async def do(self, method: str, **params: Any) -> Json:
        """One command, and its result."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._tell(number, method, params)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            message = await answer
        assert "error" not in message, f"{method}: {message['error']}"
        result: Json = message["result"]
        return result

    async def _tell(self, number: int, method: str, params: Mapping[str, Any]) -> None:
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))

    async def _happened(self, method: str, params: Json) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Fetch.requestPaused":
                await self._tell(next(self._ids), "Fetch.continueRequest", {"requestId": params["requestId"]})
            case "Fetch.authRequired":
                await self._log_in(params)
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                entry = params["entry"]
                self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
            case "Runtime.exceptionThrown":
                self.complaints.append(f"exception: {params['exceptionDetails']}")
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(f"console: {params['args']}")
            case "Audits.issueAdded" if params["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.complaints.append(f"policy: {params['issue']['details']}")

    async def _log_in(self, params: Json) -> None:
        self.asked_for_login += 1
        name, password = self._login
        answer = {"response": "ProvideCredentials", "username": name, "password": password}
        told = {"requestId": params["requestId"], "authChallengeResponse": answer}
        await self._tell(next(self._ids), "Fetch.continueWithAuth", told)

    def forgive(self) -> list[str]:
        """What there was to complain of; it does not count any more."""
        complaints, self.complaints = self.complaints, []
        return complaints

    # --- what a person does

    async def open(self, url: str) -> None:
        self._loaded.clear()
        result = await self.do("Page.navigate", url=url)
        assert "errorText" not in result, result
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await self._loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        result = await self.do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    async def until(self, condition: str, timeout_s: float = 20.0) -> None:
        """Wait until this expression is true; looked at whenever the page changes."""
        if not await self.evaluate(_UNTIL.format(condition=condition, timeout_ms=int(timeout_s * 1000))):
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"not within {timeout_s:g} s: {condition}\n{self.complaints}\n{text}")

    async def screen(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """How large the screen is, in CSS pixels; and what the person prefers."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        await self.do("Emulation.setEmulatedMedia", features=[scheme, motion])

    async def photograph(self, path: Path) -> None:
        """The whole page, as a PNG."""
        shot = await self.do("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    async def read_aloud(self) -> list[tuple[str, str]]:
        """Role and name of everything that a screen reader comes by, in order."""
        tree = await self.do("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], str(node.get("name", {}).get("value", "")))
            for node in tree["nodes"]
            if not node.get("ignored")
        ]


@asynccontextmanager
async def browsing(login: tuple[str, str]) -> AsyncIterator[Page]:
    """A tab of a browser of its own, which knows nothing and ends with the block."""
    path = executable()
    assert path is not None
    home = Path(tempfile.mkdtemp(prefix="browser-under-test-"))
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        path,
        *_FLAGS,
        f"--user-data-dir={home}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment | {"HOME": str(home)},
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            address = await _address(process)
        async with _tab(address, login) as page:
            yield page
    finally:
        await _end(process, home)


async def _address(process: asyncio.subprocess.Process) -> str:
    """Where the browser listens: it says so on standard error."""
    assert process.stderr is not None
    said = []
    async for line in process.stderr:
        said.append(line.decode(errors="replace"))
        if said[-1].startswith("DevTools listening on "):
            return said[-1].removeprefix("DevTools listening on ").strip()
    raise AssertionError(f"the browser ended: {''.join(said)}")


@asynccontextmanager
async def _tab(address: str, login: tuple[str, str]) -> AsyncIterator[Page]:
    root = address.partition("/devtools/")[0]
    async with websockets.connect(address, max_size=None, proxy=None) as browser:
        await browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        targets = json.loads(await browser.recv())["result"]["targetInfos"]
    (target,) = [one["targetId"] for one in targets if one["type"] == "page"]
    async with websockets.connect(f"{root}/devtools/page/{target}", max_size=None, proxy=None) as connection:
        page = Page(connection, login)
        listening = asyncio.create_task(page.listen())
        try:
            for domain in ("Page", "Runtime", "Log", "Audits", "Accessibility"):
                await page.do(f"{domain}.enable")
            await page.do("Fetch.enable", handleAuthRequests=True)
            yield page
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def _end(process: asyncio.subprocess.Process, home: Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()
    shutil.rmtree(home, ignore_errors=True)
