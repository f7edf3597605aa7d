"""The proxy on the way out, as it is given, or as the environment says."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


class Proxy:
    """`http(s)://[user:password@]host[:port]`. What it has of credentials shows in no `repr` and no message."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            raise _unusable() from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise _unusable()
        if parts.path not in ("", "/") or (parts.username is not None and parts.password is None):
            raise _unusable()
        self.url = parts.geturl()
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._shown = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}"

    def __repr__(self) -> str:
        return f"<Proxy {self._shown}>"


def proxy_for(socket_url: str, proxy: str | bool) -> Proxy | None:
    """The proxy for a relay's WebSocket and for its REST API.

    Args:
        proxy: a proxy's URL; True: `HTTPS_PROXY` for wss, `HTTP_PROXY` for ws, else `ALL_PROXY`, unless `NO_PROXY`
            excepts the relay; False: none.

    Raises:
        ValueError: it is none that can be used.
    """
    if isinstance(proxy, str):
        return Proxy(proxy)
    parts = urlsplit(socket_url)
    if not proxy or proxy_bypass(parts.netloc):
        return None
    found = getproxies()
    url = found.get("https" if parts.scheme == "wss" else "http") or found.get("all")
    return None if not url else Proxy(url)


def _unusable() -> ValueError:
    return ValueError("a proxy is http(s)://host:port or http(s)://user:password@host:port")
