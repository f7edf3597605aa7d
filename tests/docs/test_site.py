"""The site: built without a warning, with nothing in it from another host, and all pages in the navigation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import DOCS, ROOT
from tools.reference import PAGES

BUILD_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a link that leads nowhere, to a page or an anchor, is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        build, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


def pages() -> list[str]:
    return [*(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")), *PAGES, "changelog.md"]


def test_every_page_is_there_and_can_be_reached(site: Path) -> None:
    navigation = (site / "index.html").read_text()
    for page in pages():
        built = page.removesuffix(".md") + ".html"
        assert (site / built).is_file(), page
        assert f'href="{built}"' in navigation, f"{page} is in no menu: name it in mkdocs.yml"


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)", path.read_text()
        )
        assert [one for one in loaded if re.match(r"(?:https?:)?//", one)] == [], path.name
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", path.read_text()), path.name


def test_links_out_of_the_documents_lead_to_what_was_brought_along(site: Path) -> None:
    for name in ("examples/controller.py", "examples/controller.mjs", "deploy/nginx.conf", "deploy/alerts.yaml"):
        assert (site / name).read_bytes() == (ROOT / name).read_bytes()
    assert 'href="../examples/controller.py"' in (site / "howto" / "controller.html").read_text()
    assert 'href="protocol.html"' in (site / "changelog.html").read_text()


def test_what_was_written_for_github_is_shown_as_there(site: Path) -> None:
    architecture = (site / "architecture.html").read_text()
    assert re.search(r"<td>publishes that wait for a commit</td>", architecture), "a table in an item of a list"
    protocol = (site / "protocol.html").read_text()
    assert "<!-- schema" not in protocol
    assert re.search(r"<table>\s*<thead>\s*<tr>\s*<th>code</th>\s*<th>meaning</th>", protocol)
