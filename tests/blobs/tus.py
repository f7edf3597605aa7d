"""tus 1.0, spoken by hand: what a client may send, right or wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

import httpx

from tests.conformance.realm import API, Realm, Site, Team
from tests.conformance.wire import Frame

STREAM = "application/offset+octet-stream"
TUS = {"Tus-Resumable": "1.0.0"}
BLOBS = "blobs/"


def metadata(**pairs: object) -> str:
    """Upload-Metadata of these pairs."""
    return ",".join(f"{key} {base64.b64encode(str(value).encode()).decode()}" for key, value in pairs.items())


def checksum(data: bytes, algorithm: str = "sha256") -> str:
    """Upload-Checksum of these bytes."""
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def path_of(created: httpx.Response) -> str:
    """The path of the upload that was begun."""
    path = httpx.URL(created.headers["Location"]).path
    assert path.startswith(f"{API}/{BLOBS}")
    return path


class Client:
    """One site that uploads and downloads."""

    def __init__(self, realm: Realm, site: Site) -> None:
        self.realm = realm
        self.site = site

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """A request as tus has it; a header that is empty is left out."""
        given = {name: value for name, value in ({**TUS, **(headers or {})}).items() if value}
        return await self.realm.as_site(
            method, path.removeprefix("/starfish/api/v1/"), self.site, headers=given, **options
        )

    async def create(self, size: int | None, **pairs: object) -> str:
        """Begin an upload with this metadata; its path."""
        length = {"Upload-Defer-Length": "1"} if size is None else {"Upload-Length": str(size)}
        response = await self.ask("POST", BLOBS, {**length, "Upload-Metadata": metadata(**pairs)})
        assert response.status_code == 201, response.text
        return path_of(response)

    async def patch(self, path: str, offset: int, data: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask(
            "PATCH", path, {"Content-Type": STREAM, "Upload-Offset": str(offset), **named}, content=data
        )

    async def offset(self, path: str) -> int:
        response = await self.ask("HEAD", path)
        assert response.status_code == 200, response.status_code
        return int(response.headers["Upload-Offset"])

    async def upload(self, data: bytes, project: int, **pairs: object) -> str:
        """A whole blob; its path."""
        path = await self.create(len(data), project=project, filename="model.bin", **pairs)
        response = await self.patch(path, 0, data)
        assert response.status_code == 204, response.text
        return path

    async def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.realm.as_site("GET", path.removeprefix("/starfish/api/v1/"), self.site, headers=named)


def reference(path: str, data: bytes) -> Frame:
    """What an event says of a blob."""
    return {"blob": {"id": path.rpartition("/")[2], "size": len(data), "sha256": sha256(data)}}


async def publish(team: Team, site: Site, realm: Realm, data: object, **fields: Any) -> httpx.Response:
    """Publish an event by REST."""
    body = {"id": str(uuid.uuid4()), "kind": "update", "data": data, **fields}
    return await realm.as_site("POST", f"projects/{team.project}/events/", site, content=json.dumps(body))
