"""A hospital's controller: it trains when it is asked to, and what leaves it is weights and sums, never a patient.

    my run is in Standby   ─▶ (first round) publish the moments of my features ─▶ Preparing
    command `train`        ─▶ train ─▶ publish the weights ─▶ Pending Success ─▶ Pending Aggregating
    the batch is Success   ─▶ leave

It keeps no state of its own between events. If it is killed, the relay shows it again what it had not acknowledged, and
all that it does can be done twice: an update has an id that follows from the run and the round, a status that the run
has passed is passed over, and the model to start from is read back from the journal.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from relay.client import Event, RelayError, Site
from relay.demo import controller, data, model
from relay.demo.data import Cases, Floats
from relay.demo.model import Step
from relay.protocol.errors import ErrorCode

log = logging.getLogger(__name__)


class Participant:
    """One hospital in one project.

    Args:
        began_ns: when this process connected: what was sent before, it is shown again.
        pace_s: how long an epoch takes at least: one on these few cases takes a millisecond, which nobody could watch.
        hang_in_round: play dead in the middle of this round, and wait to be killed.
    """

    def __init__(
        self,
        site: Site,
        project: int,
        cases: Cases,
        *,
        began_ns: int,
        pace_s: float,
        hang_in_round: int | None,
    ) -> None:
        self._site = site
        self._project = project
        self._cases = cases
        self._began_ns = began_ns
        self._pace_s = pace_s
        self._hang_in_round = hang_in_round
        self._push_ms: list[float] = []

    async def work(self) -> None:
        """Until the batch has ended."""
        async for event in self._site.events():
            match event.kind:
                case "message":
                    await self._receive(event)
                case "command":
                    await self._obey(event, received_ns=time.time_ns())
                case "run" if event.data["site"] == self._site.uid and event.data["status"] == "Standby":
                    await self._prepare(event.data["run"], event.data["round"])
                case "batch" if event.data["status"] == "Success":
                    return
                case "batch" if event.data["status"] in ("Failed", "Pending Failed"):
                    raise RuntimeError(f"the batch has failed: {event.data['reason']}")

    async def _receive(self, package: Event) -> None:
        """What is too long for an event: fetched, and checked against what its sender has signed."""
        telling: list[asyncio.Task[Any]] = []

        def tell(sent: int, of: int) -> None:
            news = {"sent": sent, "of": of}
            telling.append(asyncio.create_task(self._site.publish(self._project, "progress", data=news)))

        path = await package.save(Path(f"{self._site.uid}.package"), on_progress=controller.by_steps(tell))
        await asyncio.gather(*telling)
        receipt = {"package": hashlib.sha256(path.read_bytes()).hexdigest()}
        await self._site.publish(self._project, "message", data=receipt)

    async def _prepare(self, run: int, round_: int) -> None:
        if round_ == 1:
            mine = model.moments(self._cases.x)
            payload = model.pack(n=mine.n, mean=mine.mean, m2=mine.m2)
            await self._publish(run, "moments", payload)
        await controller.walk(self._site, run, "Preparing")

    async def _obey(self, command: Event, received_ns: int) -> None:
        sent_ns = command.data["sent_ns"]
        replayed = sent_ns < self._began_ns
        if not replayed:
            self._push_ms.append((received_ns - sent_ns) / 1e6)
        if command.data["op"] == "train":
            await self._train(command.data, replayed=replayed)
        elif command.data["op"] == "report":
            await self._site.publish(
                self._project, "message", data={"push_ms": [round(one, 3) for one in self._push_ms]}
            )

    async def _train(self, task: dict[str, Any], *, replayed: bool) -> None:
        run = await self._own_run(task["batch"])
        note = {"round": task["round"], "cases": len(self._cases), "replayed": replayed}
        await self._site.publish(self._project, "log", run=run, data=note)
        weights = await self._learn(run, task)
        payload = model.pack(n=len(self._cases), weights=weights)
        await self._publish(run, f"weights/{task['round']}", payload)
        await controller.walk(self._site, run, "Pending Success", "Pending Aggregating")

    async def _learn(self, run: int, task: dict[str, Any]) -> Floats:
        start = await self._model(task["model"], task["round"])
        x = model.standardised(self._cases.x, start["mean"], start["scale"])
        weights = start["weights"]
        for step in model.train(weights, x, self._cases.y, task["epochs"]):
            weights = step.weights
            await self._tell(run, task, step)
            await asyncio.sleep(self._pace_s)
            if task["round"] == self._hang_in_round and step.epoch == task["epochs"] // 2:
                log.info("playing dead")
                await asyncio.Event().wait()
        return weights

    async def _tell(self, run: int, task: dict[str, Any], step: Step) -> None:
        progress = {
            "round": task["round"],
            "epoch": step.epoch,
            "epochs": task["epochs"],
            "loss": round(step.loss, 4),
            "accuracy": round(step.accuracy, 4),
        }
        await self._site.publish(self._project, "progress", run=run, data=progress)

    async def _model(self, offset: int, round_: int) -> dict[str, Floats]:
        """The global model, by its place in the journal. It need not be kept: the journal does. That it is this round's
        is sealed with it.
        """
        (event,) = await self._site.history(self._project, after=offset - 1, limit=1)
        assert event.payload is not None, f"expected a model at {offset}, found {event}"
        if event.to is not None and event.round != round_:
            raise RuntimeError(f"expected the model of round {round_}, the relay shows that of round {event.round}")
        return model.unpack(event.payload)

    async def _own_run(self, batch: int) -> int:
        (run,) = await self._site.runs.list(self._project, batch=batch)
        return int(run["id"])

    async def _publish(self, run: int, what: str, payload: bytes) -> None:
        id_ = controller.event_id(self._site.uid, run, what)
        await self._site.publish(self._project, "update", run=run, payload=payload, id=id_)


async def join(site: Site) -> int:
    """Take part, if this site does not yet. Returns the project's id."""
    try:
        participation = await site.projects.join(controller.PROJECT)
    except RelayError as refusal:
        if refusal.code is not ErrorCode.EXISTS:
            raise
        (participation,) = await site.projects.list()
    return int(participation["project"]["id"])


async def work(site: Site, options: argparse.Namespace) -> None:
    began_ns = time.time_ns()
    cases = data.of_site(site.name)
    project = await join(site)
    participant = Participant(
        site, project, cases, began_ns=began_ns, pace_s=options.pace, hang_in_round=options.hang_in_round
    )
    await participant.work()


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    arguments = argparse.ArgumentParser(description="a hospital that trains on its own data")
    arguments.add_argument("--pace", type=float, default=0.0, metavar="S", help="seconds that an epoch takes at least")
    arguments.add_argument("--hang-in-round", type=int, metavar="N", help="play dead in the middle of this round")
    controller.start(work, arguments)
