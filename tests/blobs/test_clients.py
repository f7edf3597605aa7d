"""The tus clients that others wrote, as they are: tuspy, aiotus, and tus-js-client on Node."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiotus
import pytest
from tusclient.client import TusClient

from tests.blobs.tus import BLOBS, Client, sha256
from tests.conformance.realm import API, Realm, Team

DATA = os.urandom(3_000_000)
TUS_JS = "tus-js-client@4.3.1"
NPM_TIMEOUT_S = 120
NODE_TIMEOUT_S = 60


@pytest.fixture
async def team(realm: Realm) -> Team:
    return await realm.team(participants=0)


@pytest.fixture
def client(realm: Realm, team: Team) -> Client:
    return Client(realm, team.coordinator)


@pytest.fixture
def url(realm: Realm) -> str:
    return f"{realm.base_url}{API}/{BLOBS}"


def path_of(url: object) -> str:
    return "/starfish/api/v1/" + str(url).partition(f"{API}/")[2]


async def test_tuspy(client: Client, team: Team, url: str) -> None:
    options = {
        "file_stream": io.BytesIO(DATA),
        "chunk_size": 700_000,
        "metadata": {"project": str(team.project), "filename": "model.bin", "sha256": sha256(DATA)},
        "upload_checksum": True,
    }
    tus = TusClient(url, headers=client.site.headers)
    first: Any = await asyncio.to_thread(tus.uploader, **options)
    await asyncio.to_thread(first.upload, stop_at=1_400_000)
    again: Any = await asyncio.to_thread(tus.uploader, url=first.url, **options)  # another process, the next day
    assert again.offset == 1_400_000
    await asyncio.to_thread(again.upload)
    assert (await client.get(path_of(again.url))).content == DATA


async def test_aiotus(client: Client, team: Team, url: str) -> None:
    metadata: dict[str, bytes | None] = {"project": str(team.project).encode(), "filename": b"model.bin", "flag": None}
    options: dict[str, Any] = {"headers": client.site.headers, "chunksize": 1_000_000}
    location = await aiotus.upload(url, io.BytesIO(DATA), metadata, **options)
    assert location is not None
    assert (await client.get(path_of(location))).content == DATA
    assert await aiotus.metadata(location, headers=client.site.headers) == metadata

    parts = [io.BytesIO(DATA[start : start + 1_000_000]) for start in range(0, len(DATA), 1_000_000)]
    location = await aiotus.upload_multiple(url, parts, metadata, **options)
    assert location is not None
    assert (await client.get(path_of(location))).content == DATA


SCRIPT = """
import { createReadStream } from "node:fs";
import * as tus from "tus-js-client";

const { url, file, headers, metadata, options } = JSON.parse(process.argv[2]);
const upload = new tus.Upload(createReadStream(file), {
  endpoint: url, headers, metadata, retryDelays: [0, 100], ...options,
  onSuccess: () => console.log(JSON.stringify({ url: upload.url })),
  onError: (error) => { console.error(String(error)); process.exit(1); },
});
upload.start();
"""


@pytest.fixture(scope="session")
def node_home() -> Path:
    """A folder with tus-js-client in it: installed once, into the user's cache."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("tus-js-client is not run: node or npm is not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "starfish-relay" / TUS_JS.replace("@", "-")
    if not (home / "node_modules" / "tus-js-client" / "package.json").exists():
        home.mkdir(parents=True, exist_ok=True)
        install = [npm, "install", TUS_JS, "--no-audit", "--no-fund", "--no-save", "--prefix", str(home)]
        try:
            subprocess.run(install, cwd=home, check=True, capture_output=True, timeout=NPM_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"tus-js-client is not run: `npm install` failed ({type(error).__name__})")
    return home


@pytest.mark.parametrize(
    "options",
    [
        {"chunkSize": 800_000},
        {"parallelUploads": 3},
        {"uploadDataDuringCreation": True, "chunkSize": 2_000_000, "overridePatchMethod": True},
    ],
    ids=["chunks", "parallel", "with-creation"],
)
async def test_tus_js_client(
    client: Client, team: Team, url: str, tmp_path: Path, node_home: Path, options: dict[str, Any]
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(DATA)
    script = node_home / "upload.mjs"
    script.write_text(SCRIPT)
    asked = {
        "url": url,
        "file": str(file),
        "headers": client.site.headers,
        "metadata": {"project": str(team.project), "filename": "model.bin", "filetype": "application/x-pytorch"},
        "options": options,
    }
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    node = await asyncio.create_subprocess_exec("node", str(script), json.dumps(asked), **pipes)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(NODE_TIMEOUT_S):
            said, failed = await node.communicate()
    finally:
        if node.returncode is None:
            node.kill()
            await node.communicate()
    assert node.returncode == 0, failed.decode()
    answer = await client.get(path_of(json.loads(said)["url"]))
    assert answer.content == DATA
    assert answer.headers["Content-Type"] == "application/x-pytorch"
