// The status page: shows what `status/` of the API says, as it changes. Whatever it shows is text, never markup.
"use strict";

const SOURCE = "starfish/api/v1/status/";
const SILENCE_MS = 12_000; // the relay says something each 5 s
const WAITS_MS = [1000, 2000, 4000, 8000];
const POLL_MS = 5000;
const REMEMBERED = 30;
const CODES = ["Failed", "Pending Failed", "Standby", "Preparing", "Running", "Pending Success", "Pending Aggregating", "Aggregating", "Success"];
const TRANSPORTS = { websocket: "WebSocket", stream: "event stream", poll: "polling" };

const byId = (id) => document.getElementById(id);
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const clock = (at) => new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

// --- making and changing elements

function make(name, attributes = {}, ...children) {
  const isDrawn = ["svg", "circle", "path"].includes(name);
  const element = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Touch nothing that is as it should be: a selection stays, and a screen reader is not told again.
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// One child for each item, kept by its key, in the order of the items.
function keep(parent, items, key, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let child = known.get(id);
    known.delete(id);
    if (child === undefined) {
      child = create(item);
      child.dataset.key = id;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

// --- how far a run is: a ring that fills

function ring() {
  const mark = make("svg", { viewBox: "0 0 13 13", "aria-hidden": "true" });
  mark.append(
    make("circle", { class: "ring", cx: 6.5, cy: 6.5, r: 5 }),
    make("circle", { class: "arc", cx: 6.5, cy: 6.5, r: 5, pathLength: 8, transform: "rotate(-90 6.5 6.5)" }),
    make("path", { class: "full", d: "" }),
    make("path", { class: "cross", d: "" }),
  );
  return mark;
}

function turn(mark, status) {
  const code = CODES.indexOf(status);
  const [, arc, full, cross] = mark.children;
  set(arc, "stroke-dasharray", isFailing(status) ? "0 8" : `${code === 8 ? 8 : code - 1.5} 8`);
  set(full, "d", code === 8 ? "M6.5 3.5a3 3 0 1 0 .01 0z" : "");
  set(cross, "d", isFailing(status) ? "M4.4 4.4l4.2 4.2M8.6 4.4l-4.2 4.2" : "");
}

// --- projects

const isOpen = (batch) => batch !== null && (batch.queued || !["Failed", "Success"].includes(batch.status));

const isFailing = (status) => status === "Failed" || status === "Pending Failed";

// Where a batch stands; if its runs stand in different places, that is another line.
function standing(batch) {
  if (batch.queued) return `Batch ${batch.id} waits for its sites`;
  const round = batch.round === null ? `Batch ${batch.id}` : `Round ${batch.round}${batch.rounds === null ? "" : ` of ${batch.rounds}`}`;
  return isMixed(batch) ? round : `${round} · ${batch.status}`;
}

const isMixed = (batch) => Object.keys(batch.standing).length > 1;
const tally = (batch) => Object.entries(batch.standing).map(([status, n]) => `${n} ${status}`).join(", ");

function newProject(project) {
  const title = make("h3", { id: `project-${project.id}` });
  const head = make("tr", {}, ...["Site", "Status", "Progress"].map((text) => make("th", { scope: "col" }, text)));
  return make(
    "article", { "aria-labelledby": title.id },
    make("header", {}, title, make("p", { class: "stand" })),
    make("p", { class: "facts" }),
    make("table", {}, make("caption"), make("thead", {}, head), make("tbody")),
  );
}

function showProject(article, project) {
  const { batch } = project;
  put(article.querySelector("h3"), project.name);
  const stand = article.querySelector(".stand");
  put(stand, standing(batch));
  stand.classList.toggle("failing", !isMixed(batch) && isFailing(batch.status));
  put(article.querySelector(".facts"), [
    ...(isMixed(batch) ? [tally(batch)] : []),
    `led by ${project.coordinator.name}`,
    `${project.online} of ${project.members} online`,
    `${count(project.head, "event", "events")}, ${project.events_per_s.toFixed(1)}/s`,
    project.lag_max > 0 ? `at most ${count(project.lag_max, "event", "events")} behind` : "all up to date",
  ].join(" · "));
  const table = article.querySelector("table");
  table.hidden = project.runs.length === 0;
  put(table.caption, `Runs of ${project.name}, batch ${batch.id}`);
  keep(table.tBodies[0], project.runs, (run) => run.id, newRun, showRun);
}

function newRun() {
  const bar = make("progress", { max: 1, value: 0, "aria-hidden": "true" }); // the number beside it says the same
  return make(
    "tr", {},
    make("th", { scope: "row" }, make("span"), make("small")),
    make("td", { class: "state" }, ring(), make("span"), make("small")),
    make("td", { class: "progress" }, make("span", { class: "text" }), bar),
  );
}

function showRun(row, run) {
  const [site, state, progress] = row.cells;
  put(site.children[0], run.site_name);
  put(site.children[1], run.role === "coordinator" ? "coordinator" : "");
  turn(state.children[0], run.status);
  put(state.children[1], run.status);
  put(state.children[2], run.round === null ? "" : `round ${run.round}`);
  row.classList.toggle("failed", isFailing(run.status));
  const fraction = run.progress?.fraction ?? null;
  const percent = fraction === null ? "" : `${Math.round(fraction * 100)} %`;
  put(progress.children[0], percent || (run.progress ? "told" : ""));
  progress.children[1].hidden = fraction === null;
  set(progress.children[1], "value", fraction ?? 0);
}

function newIdle() {
  return make("tr", {}, make("th", { scope: "row" }), make("td"), make("td", { class: "number" }), make("td", { class: "number" }));
}

function showIdle(row, project) {
  const [name, batch, online, events] = row.cells;
  put(name, project.name);
  put(batch, project.batch === null ? "none yet" : `${project.batch.id}: ${project.batch.status}`);
  put(online, `${project.online} of ${project.members}`);
  put(events, project.head.toLocaleString("en"));
}

// --- sites

function newSite() {
  const mark = make("svg", { viewBox: "0 0 13 13", "aria-hidden": "true" }, make("circle", { cx: 6.5, cy: 6.5, r: 3.75 }));
  return make(
    "tr", {},
    make("th", { scope: "row" }),
    make("td", { class: "state" }, mark, make("span"), make("small")),
    make("td", { class: "number" }),
  );
}

function showSite(row, site) {
  const [name, state, lag] = row.cells;
  put(name, site.name);
  set(name, "title", site.uid);
  row.classList.toggle("off", !site.online);
  set(state.children[0].firstChild, "class", site.online ? "full" : "hollow");
  put(state.children[1], site.online ? "online" : "offline");
  state.children[2].dataset.since = site.since ?? "";
  state.children[2].dataset.how = how(site);
  put(lag, site.lag === null ? "–" : site.lag.toLocaleString("en"));
  lag.classList.toggle("lagging", site.lag > 0);
}

function how(site) {
  if (!site.online) return site.since === null ? "never seen" : "for";
  const sessions = site.sessions > 1 ? ` × ${site.sessions}` : "";
  return site.transport === null ? "reconnecting," : `${TRANSPORTS[site.transport]}${sessions},`;
}

// --- time, which goes on by itself

function lasting(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const view = { seen: null, events: [], heardMs: -Infinity, seenMs: 0, aheadMs: 0, source: null, tries: 0 };

function tick() {
  if (view.seen === null) return;
  const isLive = performance.now() - view.heardMs < SILENCE_MS;
  const nowMs = isLive ? Date.now() + view.aheadMs : Date.parse(view.seen.at);
  for (const small of document.querySelectorAll("#sites small")) {
    const { since, how: words } = small.dataset;
    put(small, since ? `${words} ${lasting((nowMs - Date.parse(since)) / 1000)}` : words);
  }
  if (!isLive) return;
  const passedMs = performance.now() - view.seenMs;
  put(byId("uptime"), lasting(view.seen.uptime_s + passedMs / 1000));
  put(byId("at"), clock(nowMs));
  draw(Math.floor(passedMs / 1000));
}

// --- events a second: the last minute, moved on by the seconds in which nothing was said

function draw(passed) {
  const quiet = Math.min(passed, 60);
  const values = [...view.events, ...Array(quiet).fill(0)].slice(-60);
  const most = Math.max(...values);
  const top = Math.max(most, 5);
  const points = values.map((value, second) => `${second} ${(19.5 - (19 * value) / top).toFixed(2)}`);
  const [area, line] = byId("spark").children;
  set(line, "d", `M${points.join("L")}`);
  set(area, "d", `M0 20L${points.join("L")}L59 20z`);
  set(byId("spark"), "aria-label", `Events a second over the last minute: at most ${most}`);
  put(byId("rate"), (values.slice(-10).reduce((sum, value) => sum + value, 0) / 10).toFixed(1));
}

// --- everything

function figure(element, number, rest, isAlarm = false) {
  put(element, "");
  element.append(String(number), make("small", {}, rest));
  element.classList.toggle("alarm", isAlarm);
}

function show(seen) {
  const open = seen.projects.filter((project) => isOpen(project.batch));
  const idle = seen.projects.filter((project) => !isOpen(project.batch));
  const sites = seen.sites.length + seen.left_off.sites;
  const lag = Math.max(0, ...seen.sites.map((site) => site.lag ?? 0));
  put(byId("node"), seen.node);
  put(byId("version"), seen.version);
  figure(byId("sites-online"), seen.sites_online, ` of ${sites}`);
  figure(byId("training"), open.length, open.length === 1 ? " project" : " projects");
  figure(byId("behind"), lag.toLocaleString("en"), lag === 1 ? " event" : " events");
  const { kind, ok, latency_ms } = seen.database;
  const name = kind === "sqlite" ? "SQLite" : "PostgreSQL";
  if (ok) figure(byId("database"), latency_ms < 10 ? latency_ms.toFixed(1) : Math.round(latency_ms), ` ms · ${name}`);
  else figure(byId("database"), "No answer", ` · ${name}`, true);

  keep(byId("open"), open, (project) => project.id, newProject, showProject);
  byId("idle").hidden = idle.length === 0;
  keep(byId("idle").tBodies[0], idle, (project) => project.id, newIdle, showIdle);
  byId("no-projects").hidden = seen.projects.length > 0;
  byId("sites").hidden = seen.sites.length === 0;
  byId("no-sites").hidden = seen.sites.length > 0;
  keep(byId("sites").tBodies[0], seen.sites, (site) => site.uid, newSite, showSite);
  put(byId("sites-left-off"), leftOff(seen.left_off.sites, "site", "sites"));
  const left = [leftOff(seen.left_off.projects, "project", "projects"), leftOff(seen.left_off.runs, "run", "runs")];
  put(byId("projects-left-off"), left.filter(Boolean).join(" "));
}

const leftOff = (n, one, many) => (n === 0 ? "" : `${count(n, one, many)} more, not shown.`);

// --- what has changed, in words

function* changes(before, now) {
  const sites = new Map(before.sites.map((site) => [site.uid, site]));
  for (const site of now.sites) {
    const was = sites.get(site.uid);
    if (was?.online === true && !site.online) yield `${site.name} has gone offline`;
    if (was?.online === false && site.online) yield `${site.name} is online`;
  }
  const projects = new Map(before.projects.map((project) => [project.id, project]));
  for (const project of now.projects) {
    const was = projects.get(project.id);
    const text = project.batch && standing(project.batch);
    const isSame = was?.batch && project.batch?.id === was.batch.id && project.batch.round === was.batch.round;
    const isNews = was !== undefined && text && text !== (was.batch && standing(was.batch));
    if (isNews && !(isSame && isMixed(project.batch))) yield `${project.name}: ${text}`;
    const runs = new Map((was?.runs ?? []).map((run) => [run.id, run.status]));
    for (const run of project.runs) {
      const before = runs.get(run.id);
      if (before && isFailing(run.status) && !isFailing(before)) yield `${project.name}: ${run.site_name} is ${run.status}`;
    }
  }
  if (before.database.ok && !now.database.ok) yield "The database does not answer";
  if (!before.database.ok && now.database.ok) yield "The database answers again";
}

function note(text) {
  const list = byId("lately");
  const now = new Date();
  const item = make("li", { class: "is-new" }, make("time", { datetime: now.toISOString() }, clock(now)), make("span", {}, text));
  list.prepend(item);
  while (list.children.length > REMEMBERED) list.lastElementChild.remove();
  byId("nothing-lately").hidden = true;
}

// --- hearing from the relay

function heard() {
  view.heardMs = performance.now();
  view.tries = 0;
  if (byId("live").dataset.state === "stale") note("This page is live again");
  document.body.classList.remove("is-stale");
  byId("live").dataset.state = "live";
  put(byId("live-text"), "Live");
}

function take(seen) {
  heard();
  const before = view.seen;
  view.seen = seen;
  view.events = seen.events;
  view.seenMs = performance.now();
  view.aheadMs = Date.parse(seen.at) - Date.now();
  show(seen);
  tick();
  if (before !== null) for (const text of changes(before, seen)) note(text);
}

function lost(why) {
  const since = view.seen === null ? "" : `, shown as of ${clock(view.seen.at)}`;
  if (byId("live").dataset.state === "live") note("This page is not live: trying to connect");
  document.body.classList.add("is-stale");
  byId("live").dataset.state = "stale";
  put(byId("live-text"), `Not live${since}: ${why}`);
}

function connect() {
  view.source?.close();
  const source = new EventSource(SOURCE);
  view.source = source;
  view.heardMs = performance.now();
  source.onmessage = (message) => take(JSON.parse(message.data));
  source.addEventListener("still", heard);
  source.onerror = () => {
    const isRefused = source.readyState === EventSource.CLOSED;
    source.close();
    if (isRefused) lookOnce();
    else again("trying to connect");
  };
}

// The stream was refused: as many look as may, say. What it is now can be had anyway, or the relay says why not.
async function lookOnce() {
  try {
    const answer = await fetch(SOURCE, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(SILENCE_MS) });
    if (answer.ok) take(await answer.json());
    again(answer.ok ? "" : answer.status === 401 || answer.status === 403 ? "the login is not accepted" : "the relay is not ready");
  } catch {
    again("trying to connect");
  }
}

function again(why) {
  if (why) lost(why);
  const wait = why ? WAITS_MS[Math.min(view.tries, WAITS_MS.length - 1)] : POLL_MS;
  view.tries += 1;
  setTimeout(connect, wait * (0.75 + Math.random() / 2));
}

setInterval(() => {
  tick();
  const isSilent = performance.now() - view.heardMs > SILENCE_MS;
  if (isSilent && view.source.readyState !== EventSource.CLOSED) {
    view.source.close();
    again("nothing comes from the relay");
  }
}, 1000);
connect();
