"""What a browser is shown at the API's beginning, and what a wheel has to bring for it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml

from relay import __version__
from relay.config import Settings
from relay.web import app
from tests.docs.documents import DOCS, ROOT

API = "/starfish/api/v1/"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with app.running(Settings(data_dir=tmp_path)) as relay:
        transport = httpx.ASGITransport(relay.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://relay.example.org") as client:
            yield client


async def test_a_browser_is_led_to_a_page_with_every_operation_and_every_field(http: httpx.AsyncClient) -> None:
    response = await http.get("/", headers=BROWSER, follow_redirects=True)
    assert (response.status_code, response.url.path) == (200, API)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = response.text
    assert f"Starfish Relay <small>{__version__}</small>" in page
    document = yaml.safe_load((DOCS / "openapi.yaml").read_text())
    for item in document["paths"].values():
        for operation in item.values():
            if "operationId" in operation:
                assert f'<details id="{operation["operationId"]}">' in page
    for name, schema in document["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            assert re.search(rf'<details id="{name}">.*>{re.escape(field)}</code>', page), (name, field)
    assert all(f'id="{target}"' in page for target in re.findall(r'href="#([^"]+)"', page))
    assert f'<a href="{API}openapi.yaml">' in page


async def test_a_page_brings_no_script_and_asks_nothing_of_another_host(http: httpx.AsyncClient) -> None:
    for path in (API, f"{API}nothing-here", f"{API}sites/", "/starfish/api-auth/login/"):
        response = await http.get(path, headers=BROWSER)
        page = response.text
        assert not re.search(r"<script|<link|<img|<iframe|\bsrc=|\bon\w+=|@import|url\(", page), path
        assert all(target.startswith(("/", "#")) for target in re.findall(r'href="([^"]+)"', page)), path
        policy = response.headers["content-security-policy"]
        (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy.startswith("default-src 'none'; "), path
        assert policy.endswith(f"; style-src 'sha256-{digest}'"), path
        assert "frame-ancestors 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


async def test_what_a_path_says_is_text_on_a_page(http: httpx.AsyncClient) -> None:
    page = (await http.get(f"{API}<script>alert(1)</script>", headers=BROWSER)).text
    assert "<script" not in page
    assert "&lt;script&gt;" in page


async def test_a_program_gets_the_map_of_resources(http: httpx.AsyncClient) -> None:
    response = await http.get(API)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["runs-action"] == f"http://relay.example.org{API}runs-action/"


async def test_the_document_is_served_as_it_is(http: httpx.AsyncClient) -> None:
    response = await http.get(f"{API}openapi.yaml", headers={"Accept": "application/yaml"})
    assert response.content == (DOCS / "openapi.yaml").read_bytes()
    assert response.headers["content-type"] == "application/yaml"


@pytest.mark.parametrize("path", [API, f"{API}openapi.yaml"])
async def test_who_has_it_already_is_told_so(http: httpx.AsyncClient, path: str) -> None:
    etag = (await http.get(path, headers=BROWSER)).headers["etag"]
    again = await http.get(path, headers=BROWSER | {"If-None-Match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


def test_a_wheel_has_all_that_is_served(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("relay", "db", "docs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("relay/web/openapi.yaml") == (DOCS / "openapi.yaml").read_bytes()
        assert "relay/web/legacy/page.css" in archive.namelist()
        assert any(name.startswith("db/migrations/") for name in archive.namelist())
