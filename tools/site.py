"""What MkDocs does besides, to make the documentation a site (`make docs`; mkdocs.yml names this file as its hook).

- The reference pages are made from the code (`tools.reference`).
- What stands outside docs/ and is linked from it is brought along: examples, files for deployment, the changelog.
  On GitHub and in the repository the same links lead to the files themselves.
- A page that the navigation in mkdocs.yml does not name comes at the end of its section.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.reference import PAGES

ROOT = Path(__file__).parents[1]
BROUGHT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "licence.txt",
}
"""Files beside docs/, and where they are on the site. (The site begins with a page of its own, not with the README.)"""
FOLDERS = ("examples", "deploy")
"""Folders whose files are on the site under their own names."""
SUFFIXES = {".py", ".mjs", ".json", ".conf", ".yaml", ".service", ""}

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
_MARK = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)
_INDENT = re.compile(r"^ {2,3}(?=\S)", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that the navigation lacks into it."""
    named = set(_paths(config.nav))
    left_out = [path for path in _pages() if path not in named]
    sections = {name: pages for section in config.nav or [] for name, pages in section.items()}
    for path in left_out:
        sections["Reference" if path.startswith("reference/") else "How-to"].append(path)
    return config


def _paths(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inside = nav.values() if isinstance(nav, dict) else nav or []
    return [path for one in inside for path in _paths(one)]


def _pages() -> list[str]:
    written = (path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return sorted([*written, *PAGES])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made, and what is brought along."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    for source, path in BROUGHT.items():
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, content=(ROOT / source).read_text()))
    for file, path in brought():
        files.append(File.generated(config, path, abs_src_path=str(file)))
    return files


def brought() -> list[tuple[Path, str]]:
    """Files of the folders that are on the site, and their paths there."""
    found = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    kept = (path for path in found if "node_modules" not in path.parts and not path.name.startswith("."))
    return [(path, path.relative_to(ROOT).as_posix()) for path in kept if path.suffix in SUFFIXES]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leave out the marks that tests read, lead links to where things are on the site, and indent by four what belongs
    to an item of a list, which GitHub does not ask for.
    """
    source = {path: name for name, path in BROUGHT.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if source == "README.md":
        source = "docs/index.md"
    here = posixpath.dirname(page.file.src_uri)

    def led(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        on_site = BROUGHT.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(on_site, here or ".")

    return _outside_code(markdown, lambda text: _LINK.sub(led, _INDENT.sub("    ", _MARK.sub("\n", text))))


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Change what is not in a fenced block."""
    ends = [0, *(end for block in _FENCED.finditer(markdown) for end in block.span()), len(markdown)]
    pieces = [markdown[start:end] for start, end in pairwise(ends)]
    return "".join(change(piece) if n % 2 == 0 else piece for n, piece in enumerate(pieces))
