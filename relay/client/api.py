"""Requests of one site to a relay's REST API: what goes wrong is told in the words of `relay.client.transport`."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx

from relay import __version__
from relay.client.credentials import Credentials, bearer
from relay.client.limits import Limits
from relay.client.proxies import Proxy
from relay.client.transport import Disconnected, HeldBack, Refused, Unreachable, refusal


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Api:
    """See the module.

    All of its requests raise:
        Refused: the answer is another than 2xx.
        Unreachable: there was no connection.
        Disconnected: the connection was lost, or the answer did not come in time.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        limits: Limits,
        *,
        ssl: ssl_module.SSLContext | None,
        proxy: Proxy | None,
    ) -> None:
        self._credentials = credentials
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"User-Agent": f"starfish-py/{__version__}"},
            verify=ssl if ssl is not None else url.startswith("https:"),
            proxy=None if proxy is None else proxy.url,
            trust_env=False,
            timeout=httpx.Timeout(2 * limits.ping_s, connect=limits.open_s),
            limits=httpx.Limits(max_connections=None),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: bytes, *, token: str | None = None) -> Answer:
        """
        Args:
            token: to be used for this request, instead of the credentials.
        """
        credentials = await self._credentials.headers() if token is None else bearer(token)
        headers = {**credentials, "Content-Type": "application/json"}
        with _told():
            response = await self._http.post(path, content=body, headers=headers)
        return _good(response, response.content)

    async def get(self, path: str, *, timeout_s: float | None = None) -> Answer:
        headers = await self._credentials.headers()
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        with _told():
            response = await self._http.get(path, headers=headers, timeout=timeout)
        return _good(response, response.content)

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: AsyncIterator[bytes] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """Any other request. A `body` is sent as it comes; its length is in `headers`.

        Args:
            timeout_s: for the answer.
        """
        headers = {**await self._credentials.headers(), **headers}
        self._require_open()
        timeout = httpx.Timeout(self._http.timeout)
        if timeout_s is not None:
            timeout.read = timeout_s
        with _told():
            response = await self._http.request(method, path, headers=headers, content=body, timeout=timeout)
        return _good(response, response.content)

    @asynccontextmanager
    async def fetch(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """As `stream`; but the relay may say where else the bytes are, for instance in a bucket. That other place is
        asked once, and without the credentials.
        """
        headers = {"Accept-Encoding": "identity", **headers}
        credentials = await self._credentials.headers()
        self._require_open()
        async with AsyncExitStack() as stack:
            with _told():
                first = self._http.stream("GET", path, headers=credentials | headers)
                response = await stack.enter_async_context(first)
                if response.is_redirect:
                    url = self._elsewhere(response)
                    await stack.aclose()
                    response = await stack.enter_async_context(self._http.stream("GET", url, headers=headers))
                    _passing(response)
                body = b"" if response.is_success else await response.aread()
                yield _good(response, body), _as_it_comes(response)

    def _require_open(self) -> None:
        """Raises `Disconnected`: this side has ended it."""
        if self._http.is_closed:
            raise Disconnected(1006, "closed from this side")

    def _elsewhere(self, response: httpx.Response) -> httpx.URL:
        """Raises `Refused`: what is said is no place to go to."""
        try:
            url = response.url.join(response.headers.get("Location", ""))
        except httpx.InvalidURL:
            raise Refused(502, "the relay redirects to what is no URL") from None
        if url.scheme not in ("https", self._http.base_url.scheme):
            raise Refused(502, "the relay redirects to where nothing is encrypted")
        return url

    @asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """An answer whose body is read as it comes; what compresses on the way would hold it back."""
        headers = {**await self._credentials.headers(), "Accept-Encoding": "identity", **headers}
        with _told():
            async with self._http.stream("GET", path, headers=headers) as response:
                body = b"" if response.is_success else await response.aread()
                yield _good(response, body), _as_it_comes(response)


def _passing(response: httpx.Response) -> None:
    """Raises `Refused`, as what passes: a bucket that is down, or that takes a URL of a while ago no more."""
    if response.status_code in (403, 408, 429) or response.is_server_error:
        raise Refused(503, f"where the relay sends downloads to, the answer was HTTP {response.status_code}")


async def _as_it_comes(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.ReadTimeout:
        raise HeldBack(1006, "nothing came for too long") from None


def _good(response: httpx.Response, body: bytes) -> Answer:
    if not response.is_success:
        raise refusal(response.status_code, response.reason_phrase, response.headers, body)
    return Answer(response.status_code, response.headers, body)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except httpx.ProxyError as error:
        raise Refused(407 if str(error).startswith("407") else 502, "by the proxy") from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable(str(error) or type(error).__name__) from error
    except httpx.HTTPError as error:
        raise Disconnected(1006, str(error) or type(error).__name__) from error
