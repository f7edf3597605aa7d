"""The coordinator's controller: it asks for rounds of training and averages what comes back.

The relay says when all runs of a batch have come to stand in one status, and each time there is one thing to do:

    Standby              my own run is ready, too             ─▶ Preparing
    Preparing            all sites are ready: send the model  ─▶ all: Running, command `train`
    Running              my own run has nothing to train      ─▶ Pending Success ─▶ Pending Aggregating
    Pending Aggregating  all weights are there: average       ─▶ all: Aggregating ─▶ all: Standby; at the end: Success
    Success              report, and leave

What it sees is written to standard output, one JSON object a line, for whoever shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import time
from typing import Any

import numpy as np

from relay.client import Event, Published, Site
from relay.demo import controller, data, model
from relay.demo.data import Floats
from relay.demo.model import Moments
from relay.demo.run_files import RunFiles

EPOCHS = 20
DRILL = 150
"""Commands that are sent before the training, to measure how long one takes to reach the sites."""
DRILL_PAUSE_S = 0.004


class Coordinator:
    """The coordinator of one batch of one project.

    Args:
        polling: how many of the participants poll. They see no events: what they send and are sent is files.
        sealed: events are sealed, for those who listen to events.
    """

    def __init__(
        self, site: Site, project: int, files: RunFiles, *, participants: int, polling: int, rounds: int, sealed: bool
    ) -> None:
        self._sealed = sealed
        self._to: list[str] | None = None
        self._sealed_events = 0
        self._files = files
        self._listening = participants - polling
        self._sites: dict[int, str] = {}
        self._site = site
        self._project = project
        self._rounds = rounds
        self._participants = participants
        self._round = 1
        self._batch = 0
        self._run = 0
        self._joined: set[str] = set()
        self._moments: dict[str, Moments] = {}
        self._updates: dict[str, tuple[int, Floats]] = {}
        self._weights = np.zeros(0)
        self._mean = self._scale = np.zeros(0)
        self._package_sha256 = ""
        self._has_package: set[str] = set()
        self._push_ms: dict[str, list[float]] = {}
        self._accuracy = 0.0

    async def work(self) -> None:
        """Until the batch has ended and everybody has reported."""
        async for event in self._site.events():
            self._sealed_events += event.to is not None
            match event.kind:
                case "participant" if event.data["role"] == "participant":
                    await self._take_joined(event.data["site"])
                case "update":
                    self._take_update(event)
                case "file" if event.data["type"] != "artifacts":
                    await self._take_file(event.data)
                case "message":
                    await (self._take_receipt(event) if "package" in event.data else self._take_report(event))
                case "run" | "progress" | "log":
                    what = "transfer" if "sent" in event.data else event.kind
                    tell(what, site=event.sender or event.data["site"], **_without(event.data, "site"))
                case "batch":
                    await self._step(event.data["status"], event.data["reason"])
                    if event.data["status"] == "Success":
                        return

    # --- before the training

    async def _take_joined(self, uid: str) -> None:
        self._joined.add(uid)
        if len(self._joined) == self._participants:
            if self._sealed:
                self._to = await self._with_keys()
            await self._send_package()

    async def _with_keys(self) -> list[str]:
        """The participants that have keys: a controller that polls has none."""
        keys = await self._site.keys.get(self._project)
        found = [uid for uid in self._joined if keys.get(uid)]
        if len(found) != self._listening:
            raise RuntimeError(f"{self._listening} sites have keys, and the relay shows those of {len(found)}")
        return found

    async def _send_package(self) -> None:
        """By a blob: uploaded once, in parts, and fetched by each site for itself."""
        content = data.package()
        self._package_sha256 = hashlib.sha256(content).hexdigest()
        shown = controller.by_steps(lambda sent, of: tell("transfer", site=self._site.uid, sent=sent, of=of))
        self._sealed_events += self._sealed
        await self._site.send_update(self._project, content, kind="message", to=self._to, on_progress=shown)

    async def _take_receipt(self, event: Event) -> None:
        """Who polls is not sent the package; it does not need it."""
        assert event.sender is not None
        if event.data["package"] != self._package_sha256:
            raise RuntimeError(f"{event.sender} has received another package than was sent")
        tell("package", site=event.sender, bytes=data.PACKAGE_BYTES)
        self._has_package.add(event.sender)
        if len(self._has_package) == self._listening:
            await self._drill()

    async def _drill(self) -> None:
        """How long does a command take, from here through the journal to the sites?"""
        for _ in range(DRILL):
            await self._command("drill")
            await asyncio.sleep(DRILL_PAUSE_S)
        await self._command("report")

    async def _take_report(self, event: Event) -> None:
        assert event.sender is not None
        self._push_ms[event.sender] = event.data["push_ms"]
        if len(self._push_ms) == self._listening:
            started = await self._site.runs.start(self._project)
            self._batch = started["batch"]
            self._sites = {run["id"]: run["site_uid"] for run in started["runs"]}
            self._run = next(run for run, uid in self._sites.items() if uid == self._site.uid)

    # --- the training

    async def _step(self, status: str, reason: str) -> None:
        match status:
            case "Standby":
                await controller.walk(self._site, self._run, "Preparing")
            case "Preparing":
                await self._begin_round()
            case "Running":
                await controller.walk(self._site, self._run, "Pending Success", "Pending Aggregating")
            case "Pending Aggregating":
                await self._end_round()
            case "Success":
                await self._report()
            case "Failed" | "Pending Failed":
                raise RuntimeError(f"the batch has failed: {reason}")

    async def _begin_round(self) -> None:
        if self._round == 1:
            pooled = model.pool([self._moments[uid] for uid in sorted(self._moments)])
            self._mean, self._scale = pooled.mean, pooled.scale
            self._weights = np.zeros(len(pooled.mean) + 1)
        self._updates.clear()
        payload = model.pack(weights=self._weights, mean=self._mean, scale=self._scale)
        await self._files.put(self._run, self._round - 1, payload)
        round_ = self._round if self._sealed else None
        sent = await self._publish("update", payload=payload, run=self._run, round=round_)
        await self._all("Running")
        await self._command("train", batch=self._batch, round=self._round, model=sent.offset, epochs=EPOCHS)

    def _take_update(self, event: Event) -> None:
        assert event.sender is not None and event.payload is not None
        self._take_arrays(event.sender, event.payload)

    def _take_arrays(self, uid: str, payload: bytes) -> None:
        arrays = model.unpack(payload)
        if "weights" in arrays:
            self._updates[uid] = int(arrays["n"]), arrays["weights"]
        else:
            self._moments[uid] = Moments(n=int(arrays["n"]), mean=arrays["mean"], m2=arrays["m2"])

    async def _take_file(self, file: dict[str, Any]) -> None:
        """What a polling site has uploaded: its update, or its log, which ends with how far it has come."""
        uid = self._sites[file["run"]]
        content = await self._files.get(file["run"], file["type"], file["round"])
        if file["type"] == "mid_artifacts":
            self._take_arrays(uid, content)
        else:
            tell("progress", site=uid, round=file["round"], epochs=EPOCHS, **json.loads(content.splitlines()[-1]))

    async def _end_round(self) -> None:
        await self._all("Aggregating")
        self._weights = model.average([self._updates[uid] for uid in sorted(self._updates)])
        self._accuracy = model.scored(self._weights, data.for_test(), self._mean, self._scale)
        tell("round", round=self._round, accuracy=self._accuracy, updates=len(self._updates))
        if self._round == self._rounds:
            await self._all("Success")
        else:
            self._round += 1
            await self._all("Standby", increase_round=True)

    async def _report(self) -> None:
        runs = await self._site.runs.list(self._project, batch=self._batch)
        tell(
            "result",
            accuracy=self._accuracy,
            rounds=self._round,
            statuses={run["site_uid"]: run["status"] for run in runs},
            push_ms=[one for of_site in self._push_ms.values() for one in of_site],
            sealed=self._sealed_events,
        )

    # --- to the sites

    async def _all(self, status: str, *, increase_round: bool | None = None) -> None:
        await self._site.runs.status(self._run, status, increase_round=increase_round, update_all=True)

    async def _command(self, op: str, **task: Any) -> None:
        await self._publish("command", data={"op": op, **task, "sent_ns": time.time_ns()})

    async def _publish(self, kind: str, **what: Any) -> Published:
        self._sealed_events += self._sealed
        return await self._site.publish(self._project, kind, to=self._to, **what)


def tell(what: str, **news: Any) -> None:
    """One line for whoever shows it."""
    print(json.dumps({"what": what} | news), flush=True)


def _without(news: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in news.items() if key != name}


async def work(site: Site, options: argparse.Namespace) -> None:
    data.for_test()
    config = {"total_round": options.rounds, "current_round": 1, "epochs": EPOCHS}
    project = await site.projects.create(
        controller.PROJECT, tasks=[{"seq": 1, "model": "LogisticRegression", "config": config}]
    )
    tell("project", project=project["id"])
    files = RunFiles(options.url, controller.USER, os.environ[controller.PASSWORD])
    coordinator = Coordinator(
        site,
        project["id"],
        files,
        participants=options.participants,
        polling=options.polling,
        rounds=options.rounds,
        sealed=options.identity is not None,
    )
    await coordinator.work()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="the coordinator of a federation")
    arguments.add_argument("--participants", type=int, required=True, metavar="N", help="how many are waited for")
    arguments.add_argument("--polling", type=int, default=0, metavar="N", help="how many of them poll")
    arguments.add_argument("--rounds", type=int, required=True, metavar="N")
    controller.start(work, arguments)
