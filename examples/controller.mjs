// A participant's controller in JavaScript: the protocol is a WebSocket, JSON, and for bytes a header before them.
// It trains with the coordinator and the participants of controller.py. Node.js 20 or later, and `npm ci` in this folder:
//
//     STARFISH_URL=… STARFISH_TOKEN=… node examples/controller.mjs south.csv [PROJECT]
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";

const [file, name = "study"] = process.argv.slice(2);
const rows = readFileSync(file, "utf8").trim().split("\n").map((line) => line.split(",").map(Number));
const cases = rows.map((row) => ({ x: [...row.slice(0, -1), 1], y: row.at(-1) })); // the 1 is for the intercept
const base = process.env.STARFISH_URL.replace(/\/+$/, "");
const headers = { Authorization: `Bearer ${process.env.STARFISH_TOKEN}` };

// The model is a logistic regression. Weights: a coefficient for each feature, and the intercept last.
const chance = (weights, { x }) => 1 / (1 + Math.exp(-weights.reduce((sum, weight, i) => sum + weight * x[i], 0)));
const score = (weights) => cases.filter((one) => chance(weights, one) > 0.5 === (one.y === 1)).length / cases.length;

function learn(weights, steps = 5, rate = 0.1) {
  for (let step = 0; step < steps; step++) {
    const misses = cases.map((one) => (chance(weights, one) - one.y) / cases.length);
    weights = weights.map((weight, i) => weight - rate * cases.reduce((sum, { x }, n) => sum + misses[n] * x[i], 0));
  }
  return weights;
}

class Session {
  asked = new Map(); // ref → what to do with the answer

  constructor(socket) {
    this.socket = socket;
    socket.on("open", () => this.send({ type: "hello", client: "controller.mjs/1.0" }));
    socket.on("message", (data, isBinary) => {
      const end = isBinary ? 4 + data.readUInt32BE(0) : data.length; // the header's length, the header, the payload
      const frame = JSON.parse(data.subarray(isBinary ? 4 : 0, end));
      if (this.asked.has(frame.ref)) this.asked.get(frame.ref)(frame);
      else if (frame.type === "error") fail(frame);
      else if (frame.type === "welcome") this.turn = this.enter(frame.site).catch(fail);
      else if (frame.type === "event") this.turn = this.turn.then(() => this.heed(frame, data.subarray(end))).catch(fail);
    });
  }

  send(frame, payload) {
    const [length, header] = [Buffer.alloc(4), Buffer.from(JSON.stringify(frame))];
    length.writeUInt32BE(header.length);
    this.socket.send(payload ? Buffer.concat([length, header, payload]) : header.toString());
  }

  async ask(frame, payload) {
    const ref = randomUUID();
    this.send({ ref, id: ref, ...frame }, payload);
    const answer = await new Promise((resolve) => this.asked.set(ref, resolve)); // never, if the connection is lost
    this.asked.delete(ref);
    if (answer.type === "error") throw answer;
    return answer.result;
  }

  call = (method, params) => this.ask({ type: "call", method, params });
  publish = (fields, payload) => this.ask({ type: "publish", project: this.project, ...fields }, payload);

  async walk(run, ...path) {
    const passed = (error) => error.code === "conflict" || fail(error); // it was done before, or the batch was stopped
    for (const status of path) await this.call("runs.status", { run, status }).catch(passed);
  }

  async enter(site) {
    this.site = site;
    await this.call("projects.join", { name }).catch((error) => error.code === "exists" || fail(error));
    this.project = (await this.call("projects.list")).find((one) => one.project.name === name).project.id;
    console.log(`${site.name}: ${cases.length} cases, waiting for a model`);
  }

  async heed({ project, offset, id, kind, batch, data }, payload) {
    if (project !== this.project) return;
    if (kind === "run" && data.site === this.site.uid && data.status === "Standby") await this.walk(data.run, "Preparing");
    if (kind === "update") await this.answer(id, batch, data?.blob ? await download(data.blob.id) : payload);
    if (offset !== undefined) this.send({ type: "ack", project, offset }); // it is not shown again
    if (kind === "batch" && data.status === "Success") this.socket.close(1000);
  }

  async answer(id, batch, payload) {
    const [{ id: run, status, tasks, cur_seq }] = await this.call("runs.list", { project: this.project, batch });
    const [round, ...model] = Array.from({ length: payload.length / 8 }, (_, i) => payload.readDoubleLE(8 * i));
    const now = tasks[cur_seq - 1].config.current_round;
    if (round !== now || !["Running", "Pending Success"].includes(status)) return; // it was answered before
    const weights = learn(model);
    const accuracy = Number(score(weights).toFixed(3));
    await this.publish({ kind: "progress", run, data: { round, accuracy } });
    await this.publish({ kind: "log", run, data: `round ${round}: trained on ${cases.length} cases` });
    const update = Buffer.from(Float64Array.from([cases.length, ...weights]).buffer);
    await this.publish({ kind: "update", run, id }, update); // with the id of what it answers, it is stored once
    await this.walk(run, "Pending Success", "Pending Aggregating");
    console.log(`${this.site.name}: round ${round}, accuracy ${accuracy} on its own cases`);
  }
}

async function download(blob) {
  const response = await fetch(`${base}/starfish/api/v1/blobs/${blob}`, { headers });
  return response.ok ? Buffer.from(await response.arrayBuffer()) : fail(new Error(`blob ${blob}: ${response.status}`));
}

function fail(error) {
  console.error(error.message);
  process.exit(1);
}

for (let pause = 500; ; pause = Math.min(2 * pause, 30_000)) {
  const socket = new WebSocket(`${base.replace(/^http/, "ws")}/starfish/ws/v1`, "starfish.v1", { headers, maxPayload: 2 ** 25 });
  new Session(socket);
  socket.on("error", (error) => (/response: 4(?!29)/.test(error.message) ? fail(error) : console.error(error.message)));
  const code = await new Promise((resolve) => socket.on("close", resolve));
  if (code === 1000) break;
  if ([1009, 4400, 4401, 4403].includes(code)) fail(new Error(`closed for good: ${code}`)); // coming back would not help
  await sleep(pause * (0.5 + Math.random()));
}
