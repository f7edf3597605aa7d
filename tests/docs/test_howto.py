"""The how-tos' commands: each is run as it stands, with this relay's names for the examples'; or is one of those that
install something, which have tests of their own.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from relay.client import Site
from relay.client.keys import SiteKey
from relay.client.sealed import Identity
from tests.docs.documents import DOCS, blocks
from tests.support.relay import RelayProcess

PASSWORD = "a good password"
ELSEWHERE = ("pip install", "docker compose", "cp .env.example")
"""Begins what is not for a test of commands: the image's files are looked at in tests/deploy."""
INTERACTIVE = {"user passwd": "STARFISH_USER_PASSWORD", "createsuperuser": "STARFISH_SUPERUSER_PASSWORD"}
EXITS_WITH_ONE = ("doctor",)
"""It finds what a relay without TLS and a proxy lacks."""


@dataclass
class Reader:
    """Somebody who has a relay, a user `anna`, her site, and a folder."""

    relay: RelayProcess
    folder: Path
    uid: str
    printed: dict[str, str] = field(default_factory=dict)

    def does(self, command: str) -> None:
        words = [self._meant(word) for word in shlex.split(command, comments=True)[1:]]
        name = next((name for name in INTERACTIVE if " ".join(words).startswith(name)), None)
        env = {} if name is None else {INTERACTIVE[name]: "another good password"}
        done = self.relay.cli(*words, *([] if name is None else ["--no-input"]), env=env, check=False)
        assert done.returncode == 0 or (done.returncode == 1 and words[0] in EXITS_WITH_ONE), done.stdout + done.stderr
        assert "usage:" not in done.stderr, done.stderr
        self.printed[" ".join(words[:2])] = done.stdout

    def _meant(self, word: str) -> str:
        if word == "ID":
            return self._newest_id()
        named = {"UID": self.uid, "NAME": "anna", "https://relay.example": self.relay.url}
        for place in ("/var/lib/site", "/backups", "relay.pub"):
            if word.startswith(place):
                return str(self.folder / word.rpartition("/")[2])
        return named.get(word, word)

    def _newest_id(self) -> str:
        """The first id in the list that was printed last."""
        listed = next(text for name, text in reversed(self.printed.items()) if name.endswith(" list"))
        found = re.search(r"^\W*([0-9a-zA-Z_-]{6,})\W", listed.partition("━┩")[2] or listed, re.MULTILINE)
        assert found is not None, listed
        return found[1]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    Identity.generate().save(folder / "identity")
    (folder / "relay.pub").write_text(SiteKey.generate().public)
    with RelayProcess() as relay:
        relay.cli("user", "create", "anna", "--no-input", env={"STARFISH_USER_PASSWORD": PASSWORD})
        uid = relay.cli("site", "create", "--owner", "anna", "--name", "St. Anna").stdout.strip()
        relay.cli("token", "create", "--site", uid)
        yield Reader(relay=relay, folder=folder, uid=uid)


def commands(page: str) -> list[str]:
    """What stands between back-quotes or in a block of the shell, in order."""
    source = (DOCS / "howto" / page).read_text()
    found = [(match.start(), " ".join(match[1].split())) for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", source)]
    for block in re.finditer(r"```(?:sh|console)\n(.*?)```", source, re.DOTALL):
        found += [(block.start(), line) for line in block[1].splitlines() if line]
    known = ("starfish-relay ", "curl ", *ELSEWHERE)
    return [text for _, text in sorted(found) if text.startswith(known)]


@pytest.mark.parametrize("page", ["keys.md", "upgrade.md", "proxy.md"])
def test_commands_do_what_they_should(reader: Reader, page: str) -> None:
    found = commands(page)
    assert found
    for command in found:
        if command.startswith("starfish-relay serve") or command.startswith(ELSEWHERE):
            continue
        if command.startswith("curl "):
            _, url, shown = re.split(r"\s+", command.replace("# ", ""), maxsplit=2)
            answer = httpx.get(url.replace("https://relay.example", reader.relay.url), trust_env=False)
            assert (answer.status_code, answer.json()) == (200, json.loads(shown))
        else:
            reader.does(command)


async def test_a_site_is_told_what_carries_it(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = (block.text for block in blocks(DOCS / "howto" / "proxy.md") if block.language == "python")
    meant = snippet.replace("https://relay.example", reader.relay.url).replace(
        "token=token", "token=token, proxy=False"
    )
    reader.relay.cli("user", "enable", "anna")  # one of the pages has disabled her
    token = reader.relay.cli("token", "create", "--site", reader.uid).stdout.strip()
    scope: dict[str, object] = {"Site": Site, "token": token}
    exec(f"async def told():\n{textwrap.indent(meant, '    ')}", scope)
    await scope["told"]()  # type: ignore[operator]
    assert capsys.readouterr().out == "websocket\n"
