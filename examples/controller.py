"""A controller: what runs at each site of a federation. Complete; a model of one's own goes where `learn` is.

    STARFISH_URL=… STARFISH_TOKEN=… python examples/controller.py coordinate  --data reference.csv --sites 2 --rounds 5
    STARFISH_URL=… STARFISH_TOKEN=… python examples/controller.py participate --data north.csv

The sites train one logistic regression by federated averaging. What leaves a site is weights, never a case.

    my run: Standby              each site gets ready                            ─▶ Preparing
    batch:  Preparing            the coordinator sends the model, as an `update` ─▶ all to Running
    update has arrived           a participant trains, sends its own             ─▶ Pending Success, Pending Aggregating
    batch:  Pending Aggregating  the coordinator averages them                   ─▶ all to Standby again, or to Success

A participant may be killed at any point and started again: the relay shows it what it has not acknowledged, and an
answer that it sends twice is stored once, for it has the id of what it answers. The coordinator has the sums of a round
in memory; if it does not come back within a minute, the batch fails, and is started anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import warnings
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from relay.client import ClientError, Event, Interrupted, RelayError, Site

Floats = NDArray[np.float64]

MAX_UPDATE_BYTES = 100_000_000
STEPS = 2
"""Steps of L-BFGS that a site takes in a round: few, so that no site runs away from the others."""


# --- the model. Weights are one vector: a coefficient for each feature, and the intercept last.


def read(path: Path) -> tuple[Floats, Floats]:
    """Features and labels: a line is a case, its label is the last number."""
    table = np.loadtxt(path, delimiter=",", ndmin=2)
    return table[:, :-1], table[:, -1]


def learn(weights: Floats, features: Floats, labels: Floats) -> Floats:
    """Go on from these weights with one's own cases."""
    model = LogisticRegression(warm_start=True, max_iter=STEPS)
    model.coef_, model.intercept_ = weights[None, :-1].copy(), weights[-1:].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped early on purpose
        model.fit(features, labels)
    return np.append(model.coef_[0], model.intercept_)


def accuracy(weights: Floats, features: Floats, labels: Floats) -> float:
    return float(np.mean((features @ weights[:-1] + weights[-1] > 0) == (labels == 1)))


def packed(number: int, weights: Floats) -> bytes:
    """What travels, as little-endian float64: a number (the round of a model, the cases of an update), then weights."""
    return np.append(float(number), weights).astype("<f8").tobytes()


async def unpacked(event: Event) -> tuple[int, Floats]:
    """An update's number and weights, however it has come: in the event, or as a blob that it refers to."""
    async with event.open(max_bytes=MAX_UPDATE_BYTES) as stream:
        numbers = np.frombuffer(await stream.read(), "<f8")
    return int(numbers[0]), numbers[1:]


# --- the two roles


async def participate(site: Site, options: argparse.Namespace) -> None:
    """Train whenever a model comes, until a batch has ended well."""
    project = await taking_part(site, options.project, site.projects.join(options.project))
    features, labels = read(options.data)
    print(f"{site.name}: {len(labels)} cases, waiting for a model", flush=True)
    async for event in site.events():
        match step_of(event) if event.project == project else None:
            case "run" if event.data["site"] == site.uid and event.data["status"] == "Standby":
                await walk(site, event.data["run"], "Preparing")
            case "update":
                await answer(site, event, features, labels)
            case "Failed":
                print(f"{site.name}: the batch has failed ({event.data['reason']}), waiting for the next", flush=True)
            case "Success":
                return


async def answer(site: Site, event: Event, features: Floats, labels: Floats) -> None:
    """Train on from the model that has come, and send what came of it."""
    (run,) = await site.runs.list(event.project, batch=event.batch)
    round_, weights = await unpacked(event)
    now = run["tasks"][run["cur_seq"] - 1]["config"]["current_round"]
    if round_ != now or run["status"] not in ("Running", "Pending Success"):
        return  # it was answered before this process was killed, or the batch was stopped
    weights = await asyncio.to_thread(learn, weights, features, labels)
    progress = {"round": round_, "accuracy": round(accuracy(weights, features, labels), 3)}
    await site.publish(event.project, "progress", run=run["id"], data=progress)
    await site.publish(event.project, "log", run=run["id"], data=f"round {round_}: trained on {len(labels)} cases")
    await site.send_update(event.project, packed(len(labels), weights), run=run["id"], id=event.id)
    await walk(site, run["id"], "Pending Success", "Pending Aggregating")
    print(f"{site.name}: round {round_}, accuracy {progress['accuracy']} on its own cases", flush=True)


async def coordinate(site: Site, options: argparse.Namespace) -> None:
    """Start a batch when enough sites are there; send the model, average what comes back, so many times."""
    features, labels = read(options.data)
    weights, updates = np.zeros(features.shape[1] + 1), list[tuple[int, Floats]]()
    tasks = [{"seq": 1, "model": "LogisticRegression", "config": {"total_round": options.rounds, "current_round": 1}}]
    project = await taking_part(site, options.project, site.projects.create(options.project, tasks=tasks))
    policy = {"min_sites": options.sites, "queue_s": 3600, "round_deadline_s": 600, "coordinator_grace_s": 60}
    batch = (await site.runs.start(project, policy=policy))["batch"]
    print(f"project {project}, batch {batch}: waiting for {options.sites} sites", flush=True)
    round_, own = 1, 0
    async for event in site.events():
        match step_of(event) if (event.project, event.batch) == (project, batch) else None:
            case "run" if event.data["site"] == site.uid and event.data["status"] == "Standby":
                own = event.data["run"]
                await walk(site, own, "Preparing")
            case "Preparing":
                updates.clear()
                await site.runs.status(own, "Running", update_all=True)
                await site.send_update(project, packed(round_, weights), run=own)
                await walk(site, own, "Pending Success", "Pending Aggregating")
            case "update":
                updates.append(await unpacked(event))
            case "progress" | "log":
                print(f"  {event.kind}: {event.data}", flush=True)
            case "Pending Aggregating":
                await site.runs.status(own, "Aggregating", update_all=True)
                weights = np.average([part for _, part in updates], axis=0, weights=[cases for cases, _ in updates])
                print(f"round {round_}: accuracy {accuracy(weights, features, labels):.3f}", flush=True)
                last, round_ = round_ == options.rounds, round_ + 1
                await site.runs.status(own, "Success" if last else "Standby", increase_round=not last, update_all=True)
            case "Success":
                return
            case "Failed" | "Pending Failed":
                sys.exit(f"the batch has failed: {event.data['reason']}")


# --- what both need


def step_of(event: Event) -> str:
    """A batch's new status; of all else, the kind."""
    return str(event.data["status"]) if event.kind == "batch" else event.kind


async def taking_part(site: Site, name: str, entering: Awaitable[Any]) -> int:
    """The id of the project, in which this site takes part from now on, if it did not before."""
    try:
        await entering
    except RelayError as refusal:
        if refusal.code != "exists":
            raise
    found = [one["project"]["id"] for one in await site.projects.list() if one["project"]["name"] == name]
    return int(found[0]) if found else sys.exit(f"the project {name!r} is another site's: choose another name")


async def walk(site: Site, run: int, *path: str) -> None:
    """Take a run along these statuses. One that stands elsewhere is left there, so it can be done twice."""
    for status in path:
        while True:
            try:
                await site.runs.status(run, status)
            except Interrupted:  # the connection was lost: whether it was done, the next attempt says
                continue
            except RelayError as refusal:
                if refusal.code != "conflict":  # it was done before, or the batch was stopped
                    raise
            break


async def main(options: argparse.Namespace) -> None:
    work: Any = {"coordinate": coordinate, "participate": participate}[options.role]
    async with Site(os.environ["STARFISH_URL"], token=os.environ["STARFISH_TOKEN"]) as site:
        await work(site, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a controller that trains a logistic regression with others")
    parser.add_argument("role", choices=["coordinate", "participate"])
    parser.add_argument("--data", type=Path, required=True, help="own cases; the coordinator's are to test on")
    parser.add_argument("--project", default="study", help="its name, by which sites join (default: study)")
    parser.add_argument("--sites", type=int, default=2, help="how many the coordinator waits for (default: 2)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    try:
        asyncio.run(main(parser.parse_args()))
    except ClientError as error:
        sys.exit(f"{error}")
