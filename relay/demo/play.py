"""The plot: a federation trains, one of its sites is killed in the middle of a round, and goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import Process
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from relay.demo import controller, data, yardstick
from relay.demo.display import Display
from relay.demo.stage import DemoFailed, Stage
from relay.demo.yardstick import Yardstick

COORDINATOR = "Registry"
PARTICIPANTS = [share.site for share in data.SHARES]
VICTIM = PARTICIPANTS[1]
POLLING = PARTICIPANTS[2]
"""Its controller is one of those in the field: it polls."""

PACE_S = 0.02
"""How long an epoch takes at least, so that there is something to watch."""
TIME_LIMIT_S = 110.0
LEAVE_S = 10.0
"""How long the sites may take to leave when all is done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of it. `resumed`: the site that was killed was shown its command again, and finished its round."""

    accuracy: float
    rounds: int
    statuses: dict[str, str]
    push_ms: list[float]
    resumed: bool
    yardstick: Yardstick
    sealed: int
    """Events that the coordinator has sent or received sealed; 0 if nothing was to be."""
    readable: int
    """How often what stands in the commands is to be read in what the relay has stored."""

    @property
    def faults(self) -> list[str]:
        """What did not go well, in words."""
        bad = {name: status for name, status in self.statuses.items() if status != "Success"}
        faults = [f"the run of {name} ended in {status}" for name, status in bad.items()]
        worse = self.yardstick.central - self.accuracy
        if worse > yardstick.TOLERANCE:
            faults.append(f"the federated model is {worse:.3f} less accurate than central training")
        if not self.resumed:
            faults.append(f"{VICTIM} did not go on where it was killed")
        if self.sealed and self.readable:
            faults.append("the relay has stored what it should not have been able to read")
        return faults

    def push_percentile_ms(self, percent: int) -> float:
        """How long a command took to reach a site, at most, in so many per cent of all cases."""
        ordered = sorted(self.push_ms)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    def as_json(self) -> str:
        return json.dumps(
            {
                "ok": not self.faults,
                "accuracy": round(self.accuracy, 4),
                "accuracy_central": round(self.yardstick.central, 4),
                "accuracy_alone": round(self.yardstick.alone_mean, 4),
                "accuracy_alone_by_site": {name: round(one, 4) for name, one in self.yardstick.alone.items()},
                "tolerance": yardstick.TOLERANCE,
                "rounds": self.rounds,
                "sites": len(self.statuses),
                "resumed": self.resumed,
                "push_ms_p50": round(self.push_percentile_ms(50), 2),
                "push_ms_p99": round(self.push_percentile_ms(99), 2),
                "pushes": len(self.push_ms),
                "sealed": self.sealed,
                "readable_at_relay": self.readable,
            }
        )


class Play:
    """One performance. The coordinator tells what happens, and this acts on it."""

    def __init__(self, stage: Stage, display: Display, rounds: int, *, plain: bool) -> None:
        self._plain = plain
        self._identities: dict[str, str] = {}
        self._stage = stage
        self._display = display
        self._rounds = rounds
        self._fatal_round = (rounds + 1) // 2
        self._sites: dict[str, tuple[str, str]] = {}
        self._names: dict[str, str] = {}
        self._cast: dict[str, Process] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[DemoFailed] = asyncio.get_running_loop().create_future()
        self._killed = False
        self._resumed = False
        self._result: dict[str, Any] | None = None

    async def perform(self) -> Outcome:
        """From the empty stage to the end.

        Raises:
            DemoFailed: it did not come to its end.
        """
        await self._stage.serve()
        self._display.say(f"a relay serves on {self._stage.url}, with SQLite")
        self._sites = await self._stage.register([COORDINATOR, *PARTICIPANTS])
        self._names = {uid: name for name, (uid, _) in self._sites.items()}
        self._display.say(f"{len(self._sites)} sites are registered, each with a token of its own")
        if not self._plain:
            self._identities = {name: self._stage.identity(name) for name in self._sites if name != POLLING}
            self._display.say(
                f"{len(self._identities)} of them have an identity: what they send each other is sealed; "
                f"{POLLING}, which polls, has none"
            )
        coordinator = await self._enter(
            COORDINATOR,
            "coordinator",
            *("--participants", str(len(PARTICIPANTS)), "--polling", "1", "--rounds", str(self._rounds)),
        )
        measuring = asyncio.create_task(asyncio.to_thread(yardstick.measure))
        await self._follow(coordinator)
        await self._leave()
        return self._outcome(await measuring)

    # --- who comes and goes

    async def _enter(self, name: str, role: str, *arguments: str) -> Process:
        """A site's controller appears."""
        process = await self._stage.start(
            name.replace(" ", "-"),
            f"relay.demo.{role}",
            "--url",
            self._stage.url,
            *arguments,
            *(("--identity", self._identities[name]) if name in self._identities else ()),
            pipe=role == "coordinator",
            **self._credentials(name, role),
        )
        self._cast[name] = process
        return process

    def _credentials(self, name: str, role: str) -> dict[str, str]:
        """A session needs the site's token; the polling API its user's password. The coordinator uses both."""
        token, password = {controller.TOKEN: self._sites[name][1]}, {controller.PASSWORD: self._stage.password}
        return {"coordinator": token | password, "participant": token, "poller": password}[role]

    async def _enter_participant(self, name: str, *arguments: str) -> None:
        if name == POLLING:
            role, arguments = "poller", ("--site", self._sites[name][0], "--name", name)
        else:
            role = "participant"
        process = await self._enter(name, role, "--pace", str(PACE_S), *arguments)
        self._watchers.add(asyncio.create_task(self._watch(name, process)))

    async def _watch(self, name: str, process: Process) -> None:
        """A participant that ends otherwise than it should breaks the play off."""
        code = await process.wait()
        if code != 0 and process is self._cast.get(name) and not self._broken.done():
            self._broken.set_result(DemoFailed(f"{name} ended with {code}"))

    async def _strike(self) -> None:
        """The victim is killed, and started again, as its service manager would do it."""
        self._killed = True
        victim = self._cast.pop(VICTIM)
        victim.kill()
        await victim.wait()
        self._display.mark(VICTIM, "killed")
        self._display.say(
            f"[red]{VICTIM} was killed in the middle of round {self._fatal_round}[/], and is started again"
        )
        await self._enter_participant(VICTIM)

    async def _leave(self) -> None:
        """All have done their work, and leave by themselves."""
        _, late = await asyncio.wait(self._watchers, timeout=LEAVE_S)
        if self._broken.done():
            raise self._broken.result()
        if late:
            raise DemoFailed("a participant did not leave when the batch had ended")

    # --- what happens

    async def _follow(self, coordinator: Process) -> None:
        """Act on what the coordinator tells, until it leaves; a participant's death ends it sooner."""
        reading = asyncio.create_task(self._read(coordinator))
        try:
            either: set[asyncio.Future[Any]] = {reading, self._broken}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                raise self._broken.result()
            await reading
        finally:
            reading.cancel()
        code = await coordinator.wait()
        if code != 0 or self._result is None:
            raise DemoFailed(f"the coordinator ended with {code}")

    async def _read(self, coordinator: Process) -> None:
        assert coordinator.stdout is not None
        async for line in coordinator.stdout:
            await self._act(json.loads(line))

    async def _act(self, news: dict[str, Any]) -> None:
        match news["what"]:
            case "project":
                self._display.say(
                    f"the coordinator has made a project; the hospitals join, {POLLING} with a controller that polls"
                )
                hang = ("--hang-in-round", str(self._fatal_round))
                for name in PARTICIPANTS:
                    await self._enter_participant(name, *(hang if name == VICTIM else ()))
            case "package":
                name, size = self._names[news["site"]], news["bytes"] // 2**20
                self._display.say(f"{name:<10} has the study's package: {size} MiB, by a blob, as it was sent")
            case "run" | "progress" | "transfer":
                self._display.show(news, self._names)
                if self._is_the_moment(news):
                    await self._strike()
            case "log" if news.get("replayed"):
                name = self._names[news["site"]]
                self._resumed = self._killed and name == VICTIM and news["round"] == self._fatal_round
                self._display.mark(name, "back")
                self._display.say(f"[green]{name} is back: the relay has shown it its command again[/]")
            case "round":
                said = f"round {news['round']} of {self._rounds}: {news['updates']} updates averaged"
                self._display.say(f"[bold]{said}, accuracy {news['accuracy']:.3f}[/] on cases nobody has trained on")
            case "result":
                self._result = news

    def _is_the_moment(self, news: dict[str, Any]) -> bool:
        """The victim is half through the round that it is to be killed in."""
        return (
            news["what"] == "progress"
            and not self._killed
            and self._names[news["site"]] == VICTIM
            and news["round"] == self._fatal_round
            and news["epoch"] >= news["epochs"] // 2
        )

    def _outcome(self, measured: Yardstick) -> Outcome:
        assert self._result is not None
        return Outcome(
            accuracy=self._result["accuracy"],
            rounds=self._result["rounds"],
            statuses={self._names[uid]: status for uid, status in self._result["statuses"].items()},
            push_ms=self._result["push_ms"],
            resumed=self._resumed,
            yardstick=measured,
            sealed=self._result["sealed"],
            readable=self._stage.stored(data.MARK),
        )


def main(rounds: int, as_json: bool, plain: bool) -> int:
    """See `relay.demo.main`."""
    if rounds < 1:
        print(f"error: a training has at least 1 round, not {rounds}", file=sys.stderr)
        return 2
    console = Console()
    try:
        outcome = asyncio.run(_perform(console, rounds, plain=plain))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; all processes are ended", file=sys.stderr)
        return 130
    except DemoFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except TimeoutError:
        print(f"error: it was not done in {TIME_LIMIT_S:.0f} s", file=sys.stderr)
        return 1
    _show(console, outcome)
    if as_json:
        print(outcome.as_json(), flush=True)
    return 1 if outcome.faults else 0


async def _perform(console: Console, rounds: int, *, plain: bool) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        with contextlib.suppress(NotImplementedError):  # Windows has none of it
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Stage() as stage:
        try:
            with Display(console, COORDINATOR, PARTICIPANTS, POLLING) as display:
                async with asyncio.timeout(TIME_LIMIT_S):
                    outcome = await Play(stage, display, rounds, plain=plain).perform()
        except (DemoFailed, TimeoutError):
            print(stage.logs(), file=sys.stderr)
            raise
        if outcome.faults:
            print(stage.logs(), file=sys.stderr)
        return outcome


def _show(console: Console, outcome: Outcome) -> None:
    table = Table("trained", "accuracy", title="On cases that nobody has trained on", title_justify="left")
    measured = outcome.yardstick
    table.add_row(f"[bold]federated, {outcome.rounds} rounds[/]", f"[bold]{outcome.accuracy:.3f}[/]")
    table.add_row("centrally, on all data in one place", f"{measured.central:.3f}")
    for name, alone in measured.alone.items():
        table.add_row(f"by {name} alone", f"{alone:.3f}")
    console.print(table)
    p50, p99 = outcome.push_percentile_ms(50), outcome.push_percentile_ms(99)
    console.print(
        f"A command was stored and had reached a site after {p50:.1f} ms (median) and {p99:.1f} ms (99 of 100), "
        f"over {len(outcome.push_ms)} measured.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_seen_by_the_relay(outcome), highlight=False, soft_wrap=True)
    for fault in outcome.faults:
        console.print(f"[red]not well: {fault}[/]", highlight=False)
    if not outcome.faults:
        console.print("[green]All runs ended in Success.[/] No patient left a hospital.", highlight=False)


def _seen_by_the_relay(outcome: Outcome) -> str:
    if not outcome.sealed:
        return f"Nothing was sealed: a command's content is {outcome.readable} times in what the relay has stored."
    return (
        f"{outcome.sealed} events were sealed by their senders and opened by their addressees; a command's content is "
        f"{outcome.readable} times in what the relay has stored. What {POLLING} exchanged by polling was not sealed: "
        "the relay can read its files, and the model as it was given to it."
    )
