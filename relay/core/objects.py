"""Sites, projects, participations and runs as clients see them, over WebSocket and over REST alike.

The fields and their order are those of the polling API that controllers in the field know.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relay.core.model import JsonObject, Participant, Project, Run, Site, rfc3339
from relay.core.run_states import Status


def site_object(site: Site, *, online: bool) -> JsonObject:
    return {
        "id": site.id,
        "name": site.name,
        "description": site.description,
        "uid": site.uid,
        "status": "Connected" if online else "Disconnected",
        "created_at": rfc3339(site.created_us),
        "updated_at": rfc3339(site.updated_us),
    }


def project_object(project: Project) -> JsonObject:
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "site": project.site_id,
        "batch": project.batch,
        "tasks": project.tasks,
        "agent_config": project.agent_config,
        "agent_log": project.agent_log,
        "created_at": rfc3339(project.created_us),
        "updated_at": rfc3339(project.updated_us),
    }


def participation_object(participant: Participant, site: JsonObject, project: JsonObject) -> JsonObject:
    return {
        "id": participant.id,
        "site": site,
        "project": project,
        "role": participant.role.display,
        "notes": participant.notes,
        "created_at": rfc3339(participant.created_us),
        "updated_at": rfc3339(participant.updated_us),
    }


def run_object(run: Run, *, status: Status | None = None) -> JsonObject:
    """A run. `status` shows another one than it stands in (what a poll is shown, see the legacy door)."""
    return {
        "id": run.id,
        "project": run.project_id,
        "batch": run.batch,
        "participant": run.participant_id,
        "role": run.role.display,
        "site_uid": run.site_uid,
        "cur_seq": run.cur_seq,
        "status": (run.status if status is None else status).display,
        "logs": run.logs,
        "artifacts": run.artifacts,
        "tasks": run.tasks,
        "middle_artifacts": run.middle_artifacts,
        "agent_advice": run.agent_advice,
        "agent_diagnosis": run.agent_diagnosis,
        "created_at": rfc3339(run.created_us),
        "updated_at": rfc3339(run.updated_us),
    }


def run_objects(runs: Iterable[Run]) -> list[dict[str, Any]]:
    return [run_object(run) for run in runs]
