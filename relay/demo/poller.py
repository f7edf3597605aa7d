"""A hospital whose controller polls, as those in the field do: it knows the polling API, and nothing of WebSockets.

    POST sites/heartbeat/      I am here
    GET  runs/active/          what has become of my run?
      Standby                  (first round) upload the moments of my features ─▶ 3, Preparing
      Running                  download the model ─▶ train ─▶ 5, Pending Success ─▶ upload weights and logs
                               ─▶ 6, Pending Aggregating
    my run is gone from there  it has ended: say so with a heartbeat of 0, and leave

Controllers in the field do both every 5 s; this one is faster, so that nobody has to wait for it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import httpx

from relay.demo import controller, data, model
from relay.demo.coordinator import EPOCHS
from relay.demo.run_files import TASK, TIMEOUT_S, first_of

POLL_S = 0.25
PREPARING, PENDING_SUCCESS, PENDING_AGGREGATING = 3, 5, 6

log = logging.getLogger(__name__)


class Poller:
    """One hospital in one project.

    Args:
        http: speaks to the API with the credentials of the site's user.
        pace_s: how long an epoch takes at least.
    """

    def __init__(self, http: httpx.Client, uid: str, name: str, *, pace_s: float) -> None:
        self._http = http
        self._uid = uid
        self._cases = data.of_site(name)
        self._pace_s = pace_s

    def work(self) -> None:
        """Until the run has ended."""
        self._heartbeat(1)
        self._join()
        seen: tuple[str, int] | None = None
        run_id: int | None = None
        ends_at = time.monotonic() + controller.TIME_LIMIT_S
        while time.monotonic() < ends_at:
            self._heartbeat(1)
            run = self._own_run()
            if run is None and run_id is not None:
                self._leave(run_id)
                return
            if run is not None and seen != (run["status"], _round_of(run)):
                run_id, seen = run["id"], (run["status"], _round_of(run))
                self._act(run)
            time.sleep(POLL_S)
        raise TimeoutError("the run did not end")

    def _act(self, run: Mapping[str, Any]) -> None:
        log.info("run %d is in %s, round %d", run["id"], run["status"], _round_of(run))
        if run["status"] == "Standby":
            self._prepare(run)
        elif run["status"] == "Running":
            self._train(run)

    def _prepare(self, run: Mapping[str, Any]) -> None:
        if _round_of(run) == 1:
            mine = model.moments(self._cases.x)
            self._upload(run["id"], 0, {"mid_artifacts": model.pack(n=mine.n, mean=mine.mean, m2=mine.m2)})
        self._set_status(run["id"], PREPARING)

    def _train(self, run: Mapping[str, Any]) -> None:
        start = model.unpack(self._download(run["id"], _round_of(run) - 1))
        x = model.standardised(self._cases.x, start["mean"], start["scale"])
        weights, lines = start["weights"], []
        for step in model.train(weights, x, self._cases.y, EPOCHS):
            weights = step.weights
            lines.append(json.dumps({"epoch": step.epoch, "loss": step.loss, "accuracy": step.accuracy}))
            time.sleep(self._pace_s)
        self._set_status(run["id"], PENDING_SUCCESS)
        update = model.pack(n=len(self._cases), weights=weights)
        self._upload(run["id"], _round_of(run), {"mid_artifacts": update, "logs": "\n".join(lines).encode()})
        self._set_status(run["id"], PENDING_AGGREGATING)

    def _leave(self, run_id: int) -> None:
        status = self._get(f"runs/{run_id}/").json()["status"]
        self._heartbeat(0)
        if status != "Success":
            raise RuntimeError(f"the run ended in {status}")

    # --- the API

    def _join(self) -> None:
        site = self._get("sites/lookup/", uid=self._uid).json()
        body = {"name": controller.PROJECT, "description": "joins", "site": site["id"], "tasks": []}
        self._http.post("projects/", json=body).raise_for_status()

    def _heartbeat(self, status: int) -> None:
        self._http.post("sites/heartbeat/", json={"uid": self._uid, "status": status}).raise_for_status()

    def _own_run(self) -> dict[str, Any] | None:
        """The user's sites may be several: of their runs, this site's."""
        runs: list[dict[str, Any]] = self._get("runs/active/").json()
        return next((run for run in runs if run["site_uid"] == self._uid), None)

    def _set_status(self, run_id: int, status: int) -> None:
        self._http.put(f"runs/{run_id}/status/", json={"status": status}).raise_for_status()

    def _upload(self, run_id: int, round_: int, contents: Mapping[str, bytes]) -> None:
        names = {"mid_artifacts": "mid-artifacts", "logs": "logs.txt"}
        form = {"run": str(run_id), "task_seq": str(TASK), "round_seq": str(round_)}
        files = {type_: (names[type_], content) for type_, content in contents.items()}
        self._http.post("runs-action/upload/", data=form, files=files).raise_for_status()

    def _download(self, run_id: int, round_: int) -> bytes:
        found = self._get("runs-action/download/", run=run_id, type="artifacts", task_seq=TASK, round_seq=round_)
        return first_of(found.content)

    def _get(self, path: str, **query: str | int) -> httpx.Response:
        return self._http.get(path, params=query).raise_for_status()


def _round_of(run: Mapping[str, Any]) -> int:
    """The round of the run's current task."""
    (task,) = [task for task in run["tasks"] if task["seq"] == run["cur_seq"]]
    return int(task["config"]["current_round"])


def main() -> None:
    parser = argparse.ArgumentParser(description="a hospital whose controller polls")
    parser.add_argument("--url", required=True, help="the relay")
    parser.add_argument("--site", required=True, metavar="UID")
    parser.add_argument("--name", required=True, help="whose cases these are")
    parser.add_argument("--pace", type=float, default=0.0, metavar="S", help="seconds that an epoch takes at least")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    auth = httpx.BasicAuth(controller.USER, os.environ[controller.PASSWORD])
    with httpx.Client(
        base_url=f"{options.url}/starfish/api/v1/", auth=auth, timeout=TIMEOUT_S, trust_env=False
    ) as http:
        Poller(http, options.site, options.name, pace_s=options.pace).work()


if __name__ == "__main__":
    main()
