"""The status page in a real browser: it is right, it stays right, it says when it is not, and everybody can read it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.conformance.realm import OPERATOR, Realm, Team
from tests.support.browser import Page, browsing, executable
from tests.support.relay import RelayProcess

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium on this machine: apt-get install chromium")

STATE = "document.getElementById('live').dataset.state"
ROW = "[...document.querySelectorAll('{table} tr')].some((row) => /{text}/.test(row.innerText))"
LOG = "/{text}/.test(document.getElementById('lately').innerText)"
ROUND = [{"seq": 1, "model": "m", "config": {"total_round": 10, "current_round": 3}}]

LUMINANCE = """(() => {
    const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (one) => {
        for (; one; one = one.parentElement) {
            const colour = rgb(getComputedStyle(one).backgroundColor);
            if (colour.length === 3) return colour;
        }
        return [255, 255, 255];
    };
    const text = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("body *")].filter((one) => text(one) && one.checkVisibility()).map((one) => {
        const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((a, b) => b - a);
        return [one.innerText ?? one.textContent, (a + 0.05) / (b + 0.05)];
    }).filter(([, contrast]) => contrast < 4.5);
})()"""
"""Every text whose contrast with what is behind it is under 4.5 (WCAG 2.2, 1.4.3, AA)."""


@pytest.fixture
async def relay() -> AsyncIterator[RelayProcess]:
    with RelayProcess(settings={"STARFISH_PRESENCE_GRACE_S": "0"}) as process:
        environment = {"STARFISH_SUPERUSER_PASSWORD": OPERATOR.password}
        await asyncio.to_thread(
            process.cli, "createsuperuser", "--username", OPERATOR.name, "--no-input", env=environment
        )
        yield process


@pytest.fixture
async def realm(relay: RelayProcess) -> AsyncIterator[Realm]:
    async with Realm(relay, owner=OPERATOR, guest=OPERATOR, operator=OPERATOR) as realm:
        yield realm


@pytest.fixture
async def page(relay: RelayProcess) -> AsyncIterator[Page]:
    async with browsing((OPERATOR.name, OPERATOR.password)) as page:
        yield page


async def training(realm: Realm) -> Team:
    team = await realm.team(participants=2, tasks=ROUND)
    await team.start()
    await team.force("Running")
    for part, (wire, site) in enumerate(zip(team.pas, team.participants, strict=True), start=1):
        told = {"epoch": part, "epochs": 4}
        await wire.publish(team.project, kind="progress", run=team.run(site), data=told)
    return team


async def test_a_training_is_followed(relay: RelayProcess, realm: Realm, page: Page) -> None:
    await page.open(f"{relay.url}/status")
    assert page.asked_for_login == 1
    page.forgive()  # that it was not logged in yet
    team = await training(realm)
    await page.until(ROW.format(table="article", text=f"{team.participants[0].name}[^]*Running[^]*25 %"))
    await page.until(ROW.format(table="article", text=f"{team.participants[1].name}[^]*50 %"))
    await page.until("document.querySelector('article').innerText.includes('Round 3 of 10 · Running')")
    await page.until("document.getElementById('sites-online').innerText === '3 of 3'")
    await page.until("Number(document.getElementById('rate').textContent) > 0")
    assert await page.evaluate("document.querySelector('#spark .line').getAttribute('d').length") > 300

    gone = team.participants[0]
    await team.pas[0].close()
    await page.until(ROW.format(table="#sites", text=f"{gone.name}[^]*offline"))
    await page.until(LOG.format(text=f"{gone.name} has gone offline"))
    await realm.session(gone)
    await page.until(ROW.format(table="#sites", text=f"{gone.name}[^]*online[^]*WebSocket"))
    await page.until(LOG.format(text=f"{gone.name} is online"))
    await team.force("Success")
    await page.until(ROW.format(table="#idle", text=f"{team.name}[^]*1: Success"))
    assert await page.evaluate("document.querySelectorAll('article').length") == 0
    assert page.complaints == []


async def test_a_restart_is_seen_and_survived(relay: RelayProcess, realm: Realm, page: Page) -> None:
    await page.open(f"{relay.url}/status")
    await page.until(f"{STATE} === 'live'")
    team = await training(realm)
    await page.until("document.querySelectorAll('article').length === 1")
    assert await asyncio.to_thread(relay.terminate) == 0
    await page.until(f"{STATE} === 'stale'")
    shown = await page.evaluate("document.getElementById('live').innerText")
    assert re.search(r"Not live, shown as of \d\d:\d\d:\d\d", shown), shown
    assert await page.evaluate("document.querySelectorAll('article').length") == 1  # what was known stays to be read
    await page.until(LOG.format(text="This page is not live"))
    page.forgive()  # of a relay that is not there, a browser complains
    await asyncio.to_thread(relay.start)
    await page.until(f"{STATE} === 'live'")
    await realm.session(team.coordinator)
    await page.until("document.getElementById('sites-online').innerText.startsWith('3')")
    await page.until(LOG.format(text="This page is live again"))
    refused = page.forgive()
    assert all("ERR_CONNECTION_REFUSED" in one or " 503 " in one for one in refused), refused
    assert page.asked_for_login == 1


async def test_everybody_can_read_it(relay: RelayProcess, realm: Realm, page: Page) -> None:
    team = await training(realm)
    await team.pas[1].close()
    await page.open(f"{relay.url}/status")
    await page.until(ROW.format(table="#sites", text=f"{team.participants[1].name}[^]*offline"))
    heard = await page.read_aloud()
    for landmark in ("banner", "main", "contentinfo", "log"):
        assert landmark in [role for role, _ in heard]
    named = {role: [name for one, name in heard if one == role] for role, _ in heard}
    assert {"At a glance", "Projects", "Sites"} <= set(named["region"])
    assert {f"Runs of {team.name}, batch 1", "Sites"} <= set(named["table"])
    assert {"Site", "Status", "Progress", "Connection", "Behind"} <= set(named["columnheader"])
    assert all(named[role] and all(named[role]) for role in ("table", "region", "image", "article", "rowheader"))
    assert any(name.startswith("Running") for name in named["cell"])
    assert any(name.startswith("offline") for name in named["cell"])
    for dark in (False, True):
        await page.screen(1280, 800, dark=dark)
        assert await page.evaluate(LUMINANCE) == []
    await page.evaluate("document.documentElement.style.setProperty('--soft', '#777')")
    assert await page.evaluate(LUMINANCE) != []  # it would be seen
    await page.screen(360, 740)
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    assert await page.evaluate("[...document.getAnimations()].length") == 0


async def test_it_is_for_operators_and_has_nothing_from_elsewhere(relay: RelayProcess, realm: Realm) -> None:
    async with httpx.AsyncClient(base_url=relay.url, trust_env=False) as http:
        asked = await http.get("/status")
        assert (asked.status_code, asked.headers["www-authenticate"].split()[0]) == (401, "Basic")
        page = await http.get("/status", auth=(OPERATOR.name, OPERATOR.password))
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert not re.findall(r"<style|<script(?! src=)| on\w+=| style=", page.text)
        for part in re.findall(r'(?:href|src)="(status/[^"]+)"', page.text):
            answer = await http.get(f"/{part}")
            assert answer.status_code == 200
            assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", answer.text)
            again = await http.get(f"/{part}", headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
