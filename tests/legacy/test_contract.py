"""The polling API line by line, where `examples.json` has no example: docs/legacy-api.md is what is tested."""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
import pytest

from tests.conformance.realm import API, TASKS, Account, Realm, Site, Team, unique

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def body_of(answer: httpx.Response, status: int) -> Any:
    """The JSON of an answer that has this status."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def is_empty(answer: httpx.Response, status: int) -> None:
    assert (answer.status_code, answer.content) == (status, b""), f"{answer.status_code} {answer.text}"
    assert "content-type" not in answer.headers


async def batch(realm: Realm, team: Team) -> dict[str, int]:
    """Starts one, by polling; the runs' ids by site uid."""
    is_empty(await realm.rest("POST", "runs", realm.owner, json={"project": team.project}), 201)
    query = f"project={team.project}&site_uid={team.coordinator.uid}"
    *_, own = body_of(await realm.rest("GET", f"runs/lookup/?{query}", realm.owner), 200)
    detail = await realm.rest("GET", f"runs/detail/?batch={own['batch']}&{query}", realm.owner)
    team.batch = own["batch"]
    team.runs = {run["site_uid"]: run for run in body_of(detail, 200)["runs"]}
    return {uid: run["id"] for uid, run in team.runs.items()}


async def set_status(realm: Realm, account: Account, run: int, **body: Any) -> httpx.Response:
    return await realm.rest("PUT", f"runs/{run}/status/", account, json=body)


# --- the conventions


@pytest.fixture
async def crowd(realm: Realm) -> tuple[Account, list[Site]]:
    """A user's 45 sites."""
    before = (await realm.rest("GET", "sites/", realm.guest)).json()["count"]
    sites = [await realm.site(realm.guest) for _ in range(max(0, 45 - before))]
    return realm.guest, sites


async def test_lists_are_paged_by_twenty(realm: Realm, crowd: tuple[Account, list[Site]]) -> None:
    account, _ = crowd
    first = body_of(await realm.rest("GET", "sites/?page_size=3", account), 200)
    assert list(first) == ["count", "next", "previous", "results"]
    assert first["count"] >= 45
    assert (len(first["results"]), first["previous"]) == (20, None)
    assert first["next"] == f"{realm.base_url}{API}/sites/?page=2&page_size=3"
    second = body_of(await realm.http.get(first["next"], headers={"Authorization": account.authorization}), 200)
    assert second["previous"] == f"{realm.base_url}{API}/sites/?page_size=3"
    seen = first["results"] + second["results"]
    pages = -(-first["count"] // 20)
    for page in range(3, pages + 1):
        seen += body_of(await realm.rest("GET", f"sites/?page={page}", account), 200)["results"]
    ids = [site["id"] for site in seen]
    assert ids == sorted(set(ids)) and len(ids) == first["count"]
    last = body_of(await realm.rest("GET", "sites/?page=last", account), 200)
    assert last["next"] is None
    assert last["previous"] == f"{realm.base_url}{API}/sites/?page={pages - 1}"
    assert [site["id"] for site in last["results"]] == ids[20 * (pages - 1) :]


@pytest.mark.parametrize("page", ["0", "-1", "10000", "abc", "", "1.5", "9" * 30, "%00"])
async def test_a_page_that_there_is_not(realm: Realm, page: str) -> None:
    for path in ("sites/", "projects/", "project-participants/", "runs/"):
        answer = await realm.rest("GET", f"{path}?page={page}", realm.owner)
        assert body_of(answer, 404) == {"detail": "Invalid page."}


async def test_the_format_is_kept_in_links(realm: Realm, crowd: tuple[Account, list[Site]]) -> None:
    account, _ = crowd
    listed = body_of(await realm.rest("GET", "sites/?format=json", account), 200)
    assert listed["next"] == f"{realm.base_url}{API}/sites/?format=json&page=2"
    assert body_of(await realm.rest("GET", "sites/?format=xml", account), 404) == {"detail": "Not found."}


async def test_a_format_goes_before_the_accept_header(realm: Realm) -> None:
    html = {"Accept": "text/html"}
    assert (
        (await realm.rest("GET", "sites/", realm.owner, headers=html)).headers["content-type"].startswith("text/html")
    )
    assert body_of(await realm.rest("GET", "sites/?format=json", realm.owner, headers=html), 406)
    page = await realm.rest("GET", "sites/?format=api", realm.owner)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize("encoding", ["json", "json with a charset", "form", "multipart"])
async def test_bodies_are_read_in_any_encoding(realm: Realm, encoding: str) -> None:
    sent = {"uid": str(uuid.uuid4()), "name": unique("site"), "description": "ä, “x”"}
    encodings: dict[str, dict[str, Any]] = {
        "json": {"json": sent},
        "json with a charset": {
            "content": str(sent).replace("'", '"').encode(),
            "headers": {"Content-Type": "Application/JSON; charset=utf-8"},
        },
        "form": {"data": sent},
        "multipart": {"files": {name: (None, value) for name, value in sent.items()}},
    }
    made = body_of(await realm.rest("POST", "sites/", realm.owner, **encodings[encoding]), 201)
    assert {name: made[name] for name in sent} == sent


async def test_a_body_of_a_get_is_passed_over(realm: Realm) -> None:
    site = await realm.site()
    bodies: list[dict[str, Any]] = [
        {"json": {"uid": "x"}},
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
    ]
    for options in bodies:
        answer = await realm.rest("GET", f"sites/lookup/?uid={site.uid}", realm.owner, **options)
        assert body_of(answer, 200)["id"] == site.id


@pytest.mark.parametrize("path", ["sites", "projects", "project-participants", "runs/active", "runs/lookup", "users"])
async def test_a_get_without_its_slash_is_sent_on(realm: Realm, path: str) -> None:
    answer = await realm.rest("GET", f"{path}?a=1&b=%20", realm.operator)
    assert answer.status_code == 301
    assert answer.headers["location"] == f"{API}/{path}/?a=1&b=%20"


ALLOWED = {
    "sites/": "GET, POST, HEAD, OPTIONS",
    "sites/1/": "GET, PUT, PATCH, DELETE, HEAD, OPTIONS",
    "sites/lookup/": "GET, HEAD, OPTIONS",
    "sites/heartbeat/": "POST, OPTIONS",
    "projects/": "GET, POST, HEAD, OPTIONS",
    "projects/1/": "GET, PUT, PATCH, DELETE, HEAD, OPTIONS",
    "projects/lookup/": "GET, HEAD, OPTIONS",
    "project-participants/": "GET, POST, HEAD, OPTIONS",
    "project-participants/1/": "GET, PUT, PATCH, DELETE, HEAD, OPTIONS",
    "project-participants/lookup/": "GET, HEAD, OPTIONS",
    "runs/": "GET, HEAD, OPTIONS",
    "runs/active/": "GET, HEAD, OPTIONS",
    "runs/lookup/": "GET, HEAD, OPTIONS",
    "runs/detail/": "GET, HEAD, OPTIONS",
    "runs/1/status/": "PUT, OPTIONS",
    "runs-action/upload/": "POST, OPTIONS",
    "runs-action/download/": "GET, HEAD, OPTIONS",
    "runs-action/update/": "PUT, OPTIONS",
    "users/": "GET, POST, HEAD, OPTIONS",
    "users/1/": "GET, PUT, PATCH, DELETE, HEAD, OPTIONS",
    "groups/": "GET, POST, HEAD, OPTIONS",
    "groups/1/": "GET, PUT, PATCH, DELETE, HEAD, OPTIONS",
}


@pytest.mark.parametrize("path", ALLOWED)
async def test_a_method_that_an_endpoint_has_not(realm: Realm, path: str) -> None:
    allowed = ALLOWED[path]
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(allowed.split(", ")):
        answer = await realm.rest(method, path, realm.operator)
        assert body_of(answer, 405) == {"detail": f'Method "{method}" not allowed.'}
        assert answer.headers["allow"] == allowed
    nobody = await realm.rest("TRACE", path)
    assert body_of(nobody, 403) == {"detail": "Authentication credentials were not provided."}
    options = body_of(await realm.rest("OPTIONS", path, realm.operator), 200)
    assert options["renders"] == ["application/json", "text/html"]
    assert options["parses"] == ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "sites/"),
        ("POST", "sites/heartbeat/"),
        ("POST", "projects/"),
        ("POST", "project-participants/"),
        ("POST", "runs"),
        ("POST", "runs-action/upload/"),
        ("PUT", "runs-action/update/"),
    ],
)
async def test_a_body_that_cannot_be_read(realm: Realm, method: str, path: str) -> None:
    xml = {"Content-Type": "application/xml"}
    answer = await realm.rest(method, path, realm.owner, content=b"<a/>", headers=xml)
    assert body_of(answer, 415) == {"detail": 'Unsupported media type "application/xml" in request.'}
    broken = {"Content-Type": "application/json"}
    for raw in (b"{", b'{"a": NaN}', b"\xff", b"[" * 100_000):
        answer = await realm.rest(method, path, realm.owner, content=raw, headers=broken)
        assert body_of(answer, 400)["detail"].startswith("JSON parse error - ")
    form = "multipart/form-data; boundary=b"
    bad_forms = (
        (b"x", form.partition(";")[0]),
        (b"--b\r\nContent-Disposition: form-data\xd0\r\n\r\n", form),
        (b"x", form),
    )
    for raw, type_ in bad_forms:
        answer = await realm.rest(method, path, realm.owner, content=raw, headers={"Content-Type": type_})
        assert body_of(answer, 400)["detail"].startswith("Multipart form parse error - ")


async def test_what_is_not_there(realm: Realm) -> None:
    for path in ("sites/{}/", "projects/{}/", "project-participants/{}/", "runs/{}/", "users/{}/", "groups/{}/"):
        for id_ in ("0", "999999999", "9" * 30, "abc", "1.5", "-1", "%00", "٣"):
            answer = await realm.rest("GET", path.format(id_), realm.operator)
            assert body_of(answer, 404) == {"detail": "Not found."}, id_
    for path in ("nothing/", "runs/1/nothing/", "sites/1/2/"):
        answer = await realm.rest("GET", path, realm.owner)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


async def test_head_is_a_get_without_its_body(realm: Realm) -> None:
    answer = await realm.rest("HEAD", "sites/", realm.owner)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/json"


# --- sites


async def test_a_site_is_put_back_as_it_was_read(realm: Realm) -> None:
    site = await realm.site()
    path = f"sites/{site.id}/"
    read = body_of(await realm.rest("GET", path, realm.owner), 200)
    assert list(read) == ["id", "name", "description", "uid", "status", "created_at", "updated_at"]
    assert TIME.fullmatch(read["created_at"]) and TIME.fullmatch(read["updated_at"])
    changed = read | {"description": "another", "status": "Disconnected", "id": 7, "created_at": "x", "more": [1]}
    put = body_of(await realm.rest("PUT", path, realm.owner, json=changed), 200)
    assert put == read | {"description": "another", "updated_at": put["updated_at"]}
    assert put["updated_at"] > read["updated_at"]


async def test_a_heartbeat_connects_and_disconnects(realm: Realm) -> None:
    site = await realm.site()
    for status, shown in ((0, "Disconnected"), (1, "Connected"), (0, "Disconnected")):
        body = {"uid": site.uid.upper(), "status": status}
        is_empty(await realm.rest("POST", "sites/heartbeat/", realm.owner, json=body), 202)
        answer = await realm.rest("GET", f"sites/lookup/?uid={site.uid}", realm.owner)
        assert body_of(answer, 200)["status"] == shown


async def test_heartbeats_that_are_refused(realm: Realm) -> None:
    site = await realm.site()
    uids: list[Any] = [None, "", "x", 5, [site.uid], {}]
    for uid in uids:
        answer = await realm.rest("POST", "sites/heartbeat/", realm.owner, json={"uid": uid, "status": 1})
        assert body_of(answer, 400) == "Invalid uid"
    assert body_of(await realm.rest("POST", "sites/heartbeat/", realm.owner), 400) == "Invalid uid"
    statuses: list[Any] = [None, 2, -1, 0.5, "1", [1], {}]
    for status in statuses:
        answer = await realm.rest("POST", "sites/heartbeat/", realm.owner, json={"uid": site.uid, "status": status})
        assert body_of(answer, 400) == "Status not supported"
    unknown = {"uid": str(uuid.uuid4()), "status": 1}
    assert (await realm.rest("POST", "sites/heartbeat/", realm.owner, json=unknown)).status_code == 404
    foreign = {"uid": site.uid, "status": 0}
    assert (await realm.rest("POST", "sites/heartbeat/", realm.guest, json=foreign)).status_code == 404
    assert body_of(await realm.rest("GET", f"sites/{site.id}/", realm.owner), 200)["status"] == "Connected"


async def test_a_site_that_is_not_there_is_not_found_by_its_uid(realm: Realm) -> None:
    answer = await realm.rest("GET", f"sites/lookup/?uid={uuid.uuid4()}", realm.owner)
    assert body_of(answer, 404) == "Site not found"
    for query in ("", "?uid=", "?uid=x", "?uid=%00"):
        assert body_of(await realm.rest("GET", f"sites/lookup/{query}", realm.owner), 400) == "Invalid uid"


# --- projects and participations


async def test_ids_are_never_used_again(realm: Realm) -> None:
    """Controllers keep caches, models and folders by the id of a run."""
    seen: dict[str, list[int]] = {"site": [], "project": [], "participant": [], "run": []}
    for _ in range(2):
        site = await realm.site()
        body = {"name": unique("project"), "description": "x", "site": site.id, "tasks": TASKS}
        assert (await realm.rest("POST", "projects/", realm.owner, json=body)).status_code == 201
        (part,) = body_of(await realm.rest("GET", f"projects/lookup/?site_id={site.id}", realm.owner), 200)
        project = part["project"]["id"]
        is_empty(await realm.rest("POST", "runs", realm.owner, json={"project": project}), 201)
        (run,) = body_of(await realm.rest("GET", f"runs/lookup/?project={project}", realm.owner), 200)
        for name, id_ in (("site", site.id), ("project", project), ("participant", part["id"]), ("run", run["id"])):
            seen[name].append(id_)
        is_empty(await realm.rest("DELETE", f"projects/{project}/", realm.owner), 204)
        is_empty(await realm.rest("DELETE", f"sites/{site.id}/", realm.owner), 204)
    for name, (before, after) in seen.items():
        assert after > before, name


async def test_a_project_and_a_participation_are_put_back_as_they_were_read(realm: Realm) -> None:
    site = await realm.site()
    tasks = [*TASKS, {"seq": 3, "model": "M"}]
    body = {"name": unique("project"), "description": "x", "site": site.id, "tasks": tasks}
    assert body_of(await realm.rest("POST", "projects/", realm.owner, json=body), 201) == body
    (part,) = body_of(await realm.rest("GET", f"projects/lookup/?site_id={site.id}", realm.owner), 200)
    assert list(part) == ["id", "site", "project", "role", "notes", "created_at", "updated_at"]
    project = part["project"]
    assert project["tasks"] == [*TASKS, {"seq": 3, "model": "M", "config": "{}"}]
    put = body_of(await realm.rest("PUT", f"projects/{project['id']}/", realm.owner, json=project), 200)
    assert put == project | {"updated_at": put["updated_at"]}
    noted = part | {"notes": "new"}
    put = body_of(await realm.rest("PUT", f"project-participants/{part['id']}/", realm.owner, json=noted), 200)
    assert (put["notes"], put["role"], put["project"]["id"]) == ("new", "coordinator", project["id"])


async def test_look_ups_of_projects(realm: Realm) -> None:
    team = await realm.team()
    named = body_of(await realm.rest("GET", f"projects/lookup/?name={team.name}", realm.guest), 200)
    assert (named["id"], named["site"], named["batch"]) == (team.project, team.coordinator.id, 0)
    answer = await realm.rest("GET", f"projects/lookup/?name={unique('no')}", realm.guest)
    assert body_of(answer, 404) == "Project not found"
    members = body_of(await realm.rest("GET", f"project-participants/lookup/?project={team.project}", realm.owner), 200)
    assert [part["role"] for part in members] == ["coordinator", "participant"]
    assert body_of(await realm.rest("GET", "project-participants/lookup/?project=999999999", realm.owner), 200) == []


# --- runs


async def test_a_start_makes_a_run_for_each_participant(realm: Realm) -> None:
    team = await realm.team(2)
    await batch(realm, team)
    coordinator, *participants = team.runs.values()
    assert (coordinator["site_uid"], coordinator["role"]) == (team.coordinator.uid, "coordinator")
    assert [run["role"] for run in participants] == ["participant"] * 2
    for run in team.runs.values():
        assert (run["batch"], run["status"], run["cur_seq"], run["tasks"]) == (1, "Standby", 1, TASKS)
        assert [run[name] for name in ("logs", "artifacts", "middle_artifacts")] == [[], [], []]
    assert body_of(await realm.rest("GET", f"projects/{team.project}/", realm.owner), 200)["batch"] == 1


async def test_the_whole_batch_is_set_whatever_each_run_stands_in(realm: Realm) -> None:
    team = await realm.team(2)
    ids = await batch(realm, team)
    co, one, two = ids[team.coordinator.uid], *(ids[site.uid] for site in team.participants)
    is_empty(await set_status(realm, realm.guest, one, status=3), 202)
    is_empty(await set_status(realm, realm.guest, two, status=1), 202)
    is_empty(await set_status(realm, realm.owner, co, status=7, update_all=True), 202)
    assert set((await team.statuses()).values()) == {"Aggregating"}


async def test_a_round_is_counted_up_and_then_the_next_task_begins(realm: Realm) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    co = ids[team.coordinator.uid]
    places = []
    for _ in range(4):
        body = {"status": 2, "increase_round": True, "update_all": True}
        is_empty(await set_status(realm, realm.owner, co, **body), 202)
        shown = [body_of(await realm.rest("GET", f"runs/{run}/", realm.owner), 200) for run in ids.values()]
        (place,) = {(run["cur_seq"], run["tasks"][0]["config"]["current_round"]) for run in shown}
        places.append(place)
    assert places == [(1, 2), (2, 2), (2, 2), (2, 2)]  # two rounds, then a task of one round, then nothing


async def test_look_ups_of_runs(realm: Realm) -> None:
    team = await realm.team(2)
    await batch(realm, team)
    await team.force("Success")
    await batch(realm, team)
    one = team.run(team.participant)
    is_empty(await set_status(realm, realm.guest, one, status=3), 202)
    path = f"runs/lookup/?project={team.project}"
    merged = body_of(await realm.rest("GET", path, realm.owner), 200)
    assert [(run["batch"], run["status"]) for run in merged] == [(1, "Success"), (2, "Preparing")]  # P before S
    own = body_of(await realm.rest("GET", f"{path}&site_uid={team.participant.uid.upper()}", realm.guest), 200)
    assert [(run["batch"], run["status"]) for run in own] == [(1, "Success"), (2, "Preparing")]
    assert merged[1]["updated_at"] == own[1]["updated_at"]
    assert merged[1]["created_at"] == min(run["created_at"] for run in team.runs.values())
    (second,) = body_of(await realm.rest("GET", f"{path}&batch_id=2", realm.owner), 200)
    assert second == merged[1]
    assert body_of(await realm.rest("GET", f"{path}&batch_id=9", realm.owner), 200) == []


async def test_details_of_a_batch(realm: Realm) -> None:
    team = await realm.team(2)
    ids = await batch(realm, team)
    path = f"runs/detail/?batch=1&project={team.project}"
    by_id = body_of(await realm.rest("GET", f"{path}&site={team.coordinator.id}", realm.owner), 200)
    assert [run["id"] for run in by_id["runs"]] == list(ids.values())
    own = body_of(await realm.rest("GET", f"{path}&site={team.participant.id}", realm.guest), 200)
    assert [run["id"] for run in own["runs"]] == [ids[team.participant.uid]]
    assert own["participant"] == own["runs"][0]["participant"]
    assert body_of(await realm.rest("GET", f"{path}&site={team.coordinator.id}", realm.guest), 200) == {}


async def test_the_active_runs_are_those_that_have_not_ended(realm: Realm) -> None:
    team = await realm.team()
    ids = await batch(realm, team)

    async def active() -> dict[int, str]:
        runs = body_of(await realm.rest("GET", "runs/active/", realm.owner), 200)
        return {run["id"]: run["status"] for run in runs if run["id"] in ids.values()}

    assert set((await active()).values()) == {"Standby"}
    await team.force("Pending Failed")
    assert set((await active()).values()) == {"Pending Failed"}
    for status in ("Failed", "Success"):
        await team.force(status)
        assert await active() == {}


async def test_the_lists_of_a_run_are_put_as_data(realm: Realm) -> None:
    team = await realm.team()
    ids = await batch(realm, team)
    run = ids[team.participant.uid]
    planted = {"log": "a line", "artifacts": ["/etc/passwd", "../../relay.db", {"path": "/etc/shadow"}]}
    put = body_of(await realm.rest("PUT", f"runs/{run}/", realm.guest, json=planted), 202)
    assert (put["logs"], put["artifacts"]) == (["a line"], planted["artifacts"])
    for type_ in ("artifacts", "logs"):
        answer = await realm.rest("GET", f"runs-action/download/?run={run}&type={type_}", realm.guest)
        assert body_of(answer, 404) == f"No files of {type_} found"


async def test_stop_and_restart(realm: Realm) -> None:
    team = await realm.team(2)
    ids = await batch(realm, team)
    co, one = ids[team.coordinator.uid], ids[team.participant.uid]

    async def update(account: Account, run: int, action: str) -> None:
        body = {"run": run, "project": team.project, "batch": 1, "role": "coordinator", "action": action}
        is_empty(await realm.rest("PUT", "runs-action/update/", account, json=body), 202)

    await update(realm.guest, one, "stop")  # its role is looked up, and is not what it says
    statuses = await team.statuses()
    assert (statuses.pop(team.participant.uid), set(statuses.values())) == ("Pending Failed", {"Standby"})
    await update(realm.owner, co, "stop")
    assert set((await team.statuses()).values()) == {"Pending Failed"}
    await update(realm.guest, one, "restart")
    assert (await team.statuses())[team.participant.uid] == "Standby"
    await update(realm.owner, co, "restart")
    assert set((await team.statuses()).values()) == {"Standby"}


# --- users and groups


async def test_users_and_groups_are_hyperlinked(realm: Realm) -> None:
    named = {"name": unique("group")}
    group = body_of(await realm.rest("POST", "groups/", realm.operator, json=named), 201)
    assert group == {"url": group["url"], **named}
    assert re.fullmatch(rf"{realm.base_url}{API}/groups/\d+/", group["url"])
    sent = {"username": unique("user"), "email": "a@example.org", "groups": [group["url"]]}
    user = body_of(await realm.rest("POST", "users/", realm.operator, json=sent), 201)
    assert user == {"url": user["url"], **sent}
    assert list(user) == ["url", "username", "email", "groups"]
    path = user["url"].removeprefix(f"{realm.base_url}{API}/")
    assert body_of(await realm.rest("GET", path, realm.operator), 200) == user
    again = body_of(await realm.rest("POST", "users/", realm.operator, json=sent), 400)
    assert again == {"username": ["A user with that username already exists."]}
    is_empty(await realm.rest("DELETE", path, realm.operator), 204)
    assert (await realm.rest("GET", path, realm.operator)).status_code == 404


async def test_users_and_groups_are_for_operators_only(realm: Realm) -> None:
    for path in ("users/", "groups/", "users/1/", "groups/1/"):
        answer = await realm.rest("GET", path, realm.owner)
        assert body_of(answer, 403) == {"detail": "You do not have permission to perform this action."}
