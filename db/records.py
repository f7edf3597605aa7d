"""The doors in: a row of the database becomes a record of `relay.core.model`, here and nowhere else."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import msgspec

from db.connection import Row
from relay.core.admission_ports import Bar, Invitation, JoinRequest
from relay.core.audit_chain import Record
from relay.core.model import (
    Blob,
    BlobRef,
    Draft,
    Entry,
    File,
    Group,
    Holder,
    JoinPolicy,
    Kind,
    Participant,
    Project,
    Role,
    Run,
    Scope,
    SigningKey,
    Site,
    SiteCertificate,
    Token,
    User,
)
from relay.core.run_states import Status


def dump(value: Any) -> str:
    """JSON for a text column."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def user(row: Row) -> User:
    return User(
        id=row["id"],
        username=row["username"],
        email=row["email"],
        password_hash=row["password_hash"],
        is_operator=bool(row["is_operator"]),
        is_active=bool(row["is_active"]),
        created_us=row["created_us"],
    )


def audit_record(row: Row) -> Record:
    details = row["details"]
    return Record(
        seq=row["seq"],
        at_us=row["at_us"],
        actor=row["actor"],
        action=row["action"],
        target=row["target"],
        result=row["result"],
        origin=row["origin"],
        details={} if details == "{}" else json.loads(details),
        hash=row["hash"],
    )


def token(row: Row) -> Token:
    return Token(
        id=row["id"],
        site_id=row["site_id"],
        label=row["label"],
        created_us=row["created_us"],
        expires_us=row["expires_us"],
        revoked_us=row["revoked_us"],
        scopes=_scopes(row),
    )


def _scopes(row: Row) -> tuple[Scope, ...]:
    return tuple(Scope(name) for name in row["scopes"].split(","))


def holder(row: Row) -> Holder:
    """Needs the site's columns, and the token's `id` and `created_us` as `token_id` and `token_created_us`."""
    return Holder(
        token=Token(
            id=row["token_id"],
            site_id=row["site_id"],
            label=row["label"],
            created_us=row["token_created_us"],
            expires_us=row["expires_us"],
            revoked_us=row["revoked_us"],
            scopes=_scopes(row),
        ),
        site=site(row),
        is_active=bool(row["is_active"]),
    )


def signing_key(row: Row) -> SigningKey:
    return SigningKey(
        id=row["id"],
        site_id=row["site_id"],
        label=row["label"],
        public_key=bytes(row["public_key"]),
        created_us=row["created_us"],
        used_us=row["used_us"],
        revoked_us=row["revoked_us"],
    )


def site_certificate(row: Row) -> SiteCertificate:
    return SiteCertificate(
        site_id=row["site_id"], sha256=row["sha256"], label=row["label"], created_us=row["created_us"]
    )


def site(row: Row) -> Site:
    return Site(
        id=row["id"],
        uid=row["uid"],
        name=row["name"],
        description=row["description"],
        owner_id=row["owner_id"],
        connected=bool(row["connected"]),
        seen_us=row["seen_us"],
        created_us=row["created_us"],
        updated_us=row["updated_us"],
    )


def project(row: Row) -> Project:
    return Project(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        site_id=row["site_id"],
        batch=row["batch"],
        tasks=json.loads(row["tasks"]),
        agent_config=json.loads(row["agent_config"]),
        agent_log=json.loads(row["agent_log"]),
        created_us=row["created_us"],
        updated_us=row["updated_us"],
        join_policy=JoinPolicy(row["join_policy"]),
    )


def participant(row: Row) -> Participant:
    """Needs the site's `uid` beside the participant's own columns, as `site_uid`."""
    return Participant(
        id=row["id"],
        project_id=row["project_id"],
        site_id=row["site_id"],
        site_uid=row["site_uid"],
        role=Role(row["role"]),
        notes=row["notes"],
        joined=row["joined"],
        created_us=row["created_us"],
        updated_us=row["updated_us"],
    )


def invitation(row: Row) -> Invitation:
    return Invitation(
        id=row["id"],
        project_id=row["project_id"],
        label=row["label"],
        created_us=row["created_us"],
        expires_us=row["expires_us"],
        revoked_us=row["revoked_us"],
        used_us=row["used_us"],
        used_by=row["used_by"],
    )


def join_request(row: Row) -> JoinRequest:
    return JoinRequest(
        project_id=row["project_id"],
        site_id=row["site_id"],
        notes=row["notes"],
        asked_us=row["asked_us"],
        expires_us=row["expires_us"],
        rejected_us=row["rejected_us"],
    )


def bar(row: Row) -> Bar:
    return Bar(project_id=row["project_id"], site_id=row["site_id"], since_us=row["since_us"])


def run(row: Row) -> Run:
    return Run(
        id=row["id"],
        project_id=row["project_id"],
        batch=row["batch"],
        participant_id=row["participant_id"],
        site_id=row["site_id"],
        site_uid=row["site_uid"],
        role=Role(row["role"]),
        cur_seq=row["cur_seq"],
        status=Status(row["status"]),
        tasks=json.loads(row["tasks"]),
        logs=json.loads(row["logs"]),
        artifacts=json.loads(row["artifacts"]),
        middle_artifacts=json.loads(row["middle_artifacts"]),
        agent_advice=json.loads(row["agent_advice"]),
        agent_diagnosis=json.loads(row["agent_diagnosis"]),
        preparing_us=row["preparing_us"],
        created_us=row["created_us"],
        updated_us=row["updated_us"],
    )


def file(row: Row) -> File:
    return File(
        id=row["id"],
        project_id=row["project_id"],
        run_id=row["run_id"],
        type=row["type"],
        task=row["task"],
        round=row["round"],
        name=row["name"],
        blob=row["blob"],
        sha256=row["sha256"],
        size=row["size"],
        created_us=row["created_us"],
    )


def blob(row: Row) -> Blob:
    return Blob(
        id=row["id"],
        project_id=row["project_id"],
        site_id=row["site_id"],
        run=row["run"],
        filename=row["filename"],
        media_type=row["media_type"],
        metadata=row["metadata"],
        concat=row["concat"],
        size=row["size"],
        sha256=row["sha256"],
        is_complete=bool(row["is_complete"]),
        created_us=row["created_us"],
        expires_us=row["expires_us"],
        idle_us=row["idle_us"],
    )


def blob_values(blob: Blob) -> dict[str, Any]:
    """The other way: a blob as the values of its row."""
    return {one.name: getattr(blob, one.name) for one in fields(blob)}


def blob_ref(row: Row) -> BlobRef:
    audience = None if row["audience"] == "" else frozenset(json.loads(row["audience"]))
    return BlobRef(project_id=row["project_id"], audience=audience, position=row["position"])


def group(row: Row) -> Group:
    return Group(id=row["id"], name=row["name"])


def entry(row: Row) -> Entry:
    body = bytes(row["body"])
    binary = bool(row["is_binary"])
    return Entry(
        project_id=row["project_id"],
        offset=row["offset"],
        at_us=row["at_us"],
        draft=Draft(
            kind=Kind(row["kind"]),
            id=row["id"],
            sender_id=row["sender_id"],
            sender_uid=row["sender_uid"],
            subject_id=row["subject_id"],
            run=row["run"],
            batch=row["batch"],
            audience=None if row["audience"] is None else frozenset(json.loads(row["audience"])),
            data=None if binary else body,
            payload=body if binary else None,
            receipts=bool(row["receipts"]),
        ),
    )


def audience(draft: Draft) -> str | None:
    return None if draft.audience is None else msgspec.json.encode(sorted(draft.audience)).decode()


def event_values(entry: Entry) -> dict[str, Any]:
    """The other way: an entry as the values of its row in `events`."""
    draft = entry.draft
    body = draft.payload if draft.payload is not None else draft.data or b"null"
    return {
        "project_id": entry.project_id,
        "offset": entry.offset,
        "id": draft.id,
        "kind": draft.kind.value,
        "sender_id": draft.sender_id,
        "sender_uid": draft.sender_uid,
        "subject_id": draft.subject_id,
        "run": draft.run,
        "batch": draft.batch,
        "at_us": entry.at_us,
        "audience": audience(draft),
        "receipts": draft.receipts,
        "is_binary": draft.payload is not None,
        "size": len(body),
        "body": body,
    }


def progress(row: Row) -> Entry:
    body = bytes(row["body"])
    binary = bool(row["is_binary"])
    return Entry(
        project_id=row["project_id"],
        offset=None,
        at_us=row["at_us"],
        draft=Draft(
            kind=Kind.PROGRESS,
            id=row["id"],
            sender_id=row["sender_id"],
            sender_uid=row["sender_uid"],
            run=row["run"],
            batch=row["batch"],
            audience=None if row["audience"] is None else frozenset(json.loads(row["audience"])),
            data=None if binary else body,
            payload=body if binary else None,
        ),
    )
