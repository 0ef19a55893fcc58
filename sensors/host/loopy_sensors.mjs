// Runs a project's TypeScript sensors: one JSON request in, one JSON response out.
//
// It is started as `node loopy_sensors.mjs --worker CODE_DIR` in the project's folder,
// and reads a request a line from descriptor 3 and writes a response a line to descriptor
// 4, each with the number of the request, so that whatever sensor code prints is no
// response. As a Lambda function its handler is `loopy_sensors.handler`, which keeps such
// a worker: a process with nothing but the sensors' own environment, which is made anew
// when that has changed, or when a module could not be loaded, as Node.js loads none
// twice. Needs Node.js 18 and nothing else. The compiler has made JavaScript of the
// sensors; they lie below CODE_DIR, or beside this file.
//
// A sensor is called with a `Request` (webhook) or a `Tick` (poll). It may be a
// function, an async function, a generator or an async generator. It gives back
// nothing, the fields of one event, or an iterable of those, all of which are
// delivered. Anything else is an error.

import { spawn } from "node:child_process";
import { createHash, createHmac } from "node:crypto";
import { writeSync } from "node:fs";
import { Socket } from "node:net";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

// The head of a stack says what went wrong; more would not fit a log line.
const TRACE_CHARS = 4000;

// The first version of Node.js that has all that is used here.
const OLDEST = 18;

// How deep the value of a field may be; one that holds itself is deeper.
const MAX_DEPTH = 100;

/** The sensor's code broke a rule; the text alone says which. */
class SensorFault extends Error {}

/** The sensor's code is not there to be called. */
class Unloadable extends Error {}

// --- what a sensor is called with ---------------------------------------------

/** Headers by name, in any case. */
class Headers {
  #headers = new Map();

  constructor(headers) {
    for (const [name, value] of Object.entries(headers)) this.#headers.set(name.toLowerCase(), value);
  }

  get(name) {
    return this.#headers.get(String(name).toLowerCase()) ?? null;
  }

  has(name) {
    return this.#headers.has(String(name).toLowerCase());
  }

  [Symbol.iterator]() {
    return this.#headers[Symbol.iterator]();
  }
}

/** A verified webhook delivery. */
class Request {
  #json;

  constructor(call) {
    this.method = call.method;
    this.path = call.path;
    this.headers = new Headers(call.headers);
    this.query = new URLSearchParams(call.query);
    this.body = new Uint8Array(Buffer.from(call.body_base64, "base64"));
  }

  get json() {
    if (this.#json === undefined) {
      try {
        this.#json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(this.body));
      } catch (error) {
        throw new SyntaxError(`the body of this delivery is not JSON: ${error.message}`);
      }
    }
    return this.#json;
  }
}

/** A poll's turn. */
class Tick {
  constructor(call) {
    this.scheduled_at = new Date(call.scheduled_at);
    this.last_run = new Date(call.last_run);
    this.snapshot = call.snapshot;
  }
}

// --- what a sensor gives back -------------------------------------------------

function described(item) {
  if (item === null || item === undefined) return `${item} in an iterable`;
  if (Array.isArray(item)) return "an array in an iterable";
  if (item instanceof Date) return "a Date";
  return `a ${typeof item}`;
}

/** The JSON form of a field's value. */
function plain(value, place, depth = 0) {
  if (depth > MAX_DEPTH) throw new SensorFault(`${place.slice(0, 80)}… is too deep, or holds itself`);
  if (value !== null && typeof value === "object" && typeof value.toJSON === "function") {
    if (value instanceof Date && Number.isNaN(value.getTime())) {
      throw new SensorFault(`${place} is a Date that is no date`);
    }
    return plain(value.toJSON(), place, depth + 1);
  }
  switch (typeof value) {
    case "boolean":
      return value;
    case "number":
      if (!Number.isFinite(value)) throw new SensorFault(`${place} is ${value}, which JSON cannot say`);
      return value;
    case "string":
      if (/\p{Surrogate}/u.test(value)) throw new SensorFault(`${place} holds text that is not valid Unicode`);
      return value;
    case "object":
      break;
    default:
      throw new SensorFault(
        `${place} is a ${typeof value}, which has no JSON form; use text, numbers, arrays, objects or Dates`,
      );
  }
  if (value === null) return null;
  if (Array.isArray(value)) return value.map((item, at) => plain(item, `${place}[${at}]`, depth + 1));
  if (value instanceof Map || value instanceof Set || ArrayBuffer.isView(value)) {
    throw new SensorFault(`${place} is a ${value.constructor.name}, which has no JSON form; use an object or an array`);
  }
  const made = {};
  for (const [name, item] of Object.entries(value)) {
    // A field that is not set is not sent.
    if (item === undefined) continue;
    const entry = { value: plain(item, `${place}.${name}`, depth + 1), enumerable: true };
    Object.defineProperty(made, plain(name, place), entry);
  }
  return made;
}

function sensed(item, emits) {
  if (item === null || typeof item !== "object" || Array.isArray(item) || item instanceof Date) {
    throw new SensorFault(
      `it gave back ${described(item)}; return nothing, the fields of one ${emits}, or an iterable of those`,
    );
  }
  return { event: emits, fields: plain(item, emits) };
}

async function eventsOf(returned, emits) {
  if (returned === null || returned === undefined) return [];
  const several =
    typeof returned === "object" &&
    (typeof returned[Symbol.iterator] === "function" || typeof returned[Symbol.asyncIterator] === "function");
  if (!several) return [sensed(returned, emits)];
  const events = [];
  for await (const item of returned) events.push(sensed(item, emits));
  return events;
}

// --- answering ------------------------------------------------------------------

/** The head of the stack, without the frames that led into sensor code. */
function trace(error) {
  const text = error instanceof Error ? (error.stack ?? `${error.name}: ${error.message}`) : `it threw ${String(error)}`;
  const lines = text.split("\n").filter((line) => !/^\s+at /.test(line) || !/loopy_sensors\.mjs|node:internal/.test(line));
  return lines.join("\n").trim().slice(0, TRACE_CHARS);
}

async function load(root, code) {
  if (major < OLDEST) {
    throw new Unloadable(`it needs Node.js ${OLDEST} or later, and this is ${process.versions.node}`);
  }
  let module;
  try {
    module = await import(pathToFileURL(join(root, code.module)).href);
  } catch (error) {
    // Node.js does not say where the code is that it cannot read.
    const where = error instanceof SyntaxError ? `${code.module}, or what it imports: ` : "";
    throw new Unloadable(`${where}${trace(error)}`);
  }
  const entry = module.sensorRegistry?.[code.function];
  if (typeof entry?.run !== "function") {
    throw new Unloadable(`${code.module} exports no \`sensorRegistry\` with a function \`${code.function}.run\``);
  }
  return entry;
}

async function call(root, request) {
  const entry = await load(root, request);
  const { call, emits } = request;
  const argument = call.kind === "request" ? new Request(call) : new Tick(call);
  return await eventsOf(await entry.run(argument), emits);
}

const [major] = process.versions.node.split(".").map(Number);

/** Answers a request. Whoever started the worker looks at the clock. */
async function answer(root, request) {
  if (request.ask === "load") {
    const loaded = {};
    for (const code of request.sensors) {
      try {
        await load(root, code);
      } catch (error) {
        loaded[code.sensor] = error instanceof Unloadable ? error.message : trace(error);
      }
    }
    return { loaded };
  }
  try {
    const { response_bytes } = request.limits;
    const events = await call(root, request);
    const size = Buffer.byteLength(JSON.stringify({ events }));
    if (size > response_bytes) {
      throw new SensorFault(`its events are ${size} bytes of JSON, and one call may give ${response_bytes}`);
    }
    return { events };
  } catch (error) {
    if (error instanceof Unloadable) return { unloadable: error.message };
    return { error: error instanceof SensorFault ? error.message : trace(error) };
  }
}

// --- as a worker ----------------------------------------------------------------

/** The lines of a stream of bytes. Text has more ends of a line than this one. */
async function* lines(stream) {
  let parts = [];
  for await (const chunk of stream) {
    let start = 0;
    for (let end; (end = chunk.indexOf(0x0a, start)) >= 0; start = end + 1) {
      parts.push(chunk.subarray(start, end));
      yield Buffer.concat(parts).toString("utf8");
      parts = [];
    }
    if (start < chunk.length) parts.push(chunk.subarray(start));
  }
}

function respond(answered) {
  const bytes = Buffer.from(`${JSON.stringify(answered)}\n`);
  for (let at = 0; at < bytes.length; ) at += writeSync(4, bytes, at);
}

async function work(code) {
  for await (const line of lines(new Socket({ fd: 3, readable: true, writable: false }))) {
    const { number, request } = JSON.parse(line);
    respond({ number, response: await answer(code, request) });
  }
  // What a sensor left running keeps nothing alive.
  process.exit(0);
}

// --- as a Lambda function -------------------------------------------------------

// What a sensor sees of the function's own environment.
const KEPT = ["PATH", "LD_LIBRARY_PATH", "LANG", "TZ"];

// How long the secret is used before it is read again: as long as the other functions
// keep theirs.
const KEPT_FOR = 5 * 60 * 1000;

const file = fileURLToPath(import.meta.url);
let own;
let readAt = 0;
let child;

const sha256 = (text) => createHash("sha256").update(text).digest("hex");
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

/** A secret's map of texts. One signed request: the whole SDK takes longer to load. */
async function secret(arn) {
  const region = process.env.AWS_REGION;
  const suffix = region.startsWith("cn-") ? "amazonaws.com.cn" : "amazonaws.com";
  const url = new URL(process.env.AWS_ENDPOINT_URL || `https://secretsmanager.${region}.${suffix}/`);
  const body = JSON.stringify({ SecretId: arn });
  const time = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
  const headers = {
    "content-type": "application/x-amz-json-1.1",
    host: url.host,
    "x-amz-date": time,
    "x-amz-target": "secretsmanager.GetSecretValue",
  };
  if (process.env.AWS_SESSION_TOKEN) headers["x-amz-security-token"] = process.env.AWS_SESSION_TOKEN;
  const names = Object.keys(headers).sort();
  const listed = names.map((name) => `${name}:${headers[name]}\n`).join("");
  const canonical = ["POST", "/", "", listed, names.join(";"), sha256(body)].join("\n");
  const scope = [time.slice(0, 8), region, "secretsmanager", "aws4_request"];
  const key = scope.reduce(hmac, `AWS4${process.env.AWS_SECRET_ACCESS_KEY}`);
  const signature = hmac(key, ["AWS4-HMAC-SHA256", time, scope.join("/"), sha256(canonical)].join("\n"));
  const credential = `${process.env.AWS_ACCESS_KEY_ID}/${scope.join("/")}`;
  headers.authorization =
    `AWS4-HMAC-SHA256 Credential=${credential}, SignedHeaders=${names.join(";")}, ` +
    `Signature=${signature.toString("hex")}`;
  delete headers.host;
  const answered = await fetch(url, { method: "POST", headers, body });
  const text = await answered.text();
  if (!answered.ok) throw new Error(`the secret ${arn} cannot be read: ${answered.status} ${text.slice(0, 500)}`);
  const values = JSON.parse(JSON.parse(text).SecretString);
  const texts = values !== null && typeof values === "object" && Object.values(values).every((v) => typeof v === "string");
  if (!texts) throw new Error("the secret in LOOPY_SENSOR_SECRET is not a JSON map of texts");
  return values;
}

/** What a sensor sees. An error goes to the caller: the same call may succeed later. */
async function environment() {
  const age = Date.now() - readAt;
  if (own === undefined || age < 0 || age >= KEPT_FOR) {
    const arn = process.env.LOOPY_SENSOR_SECRET;
    own = arn ? await secret(arn) : {};
    readAt = Date.now();
  }
  const kept = KEPT.filter((name) => name in process.env).map((name) => [name, process.env[name]]);
  return { ...Object.fromEntries(kept), ...own };
}

/** A worker, and what it was started with. */
class Child {
  #process;
  #answers;
  #ended;
  #asked = 0;

  constructor(environment) {
    this.startedWith = JSON.stringify(environment);
    const root = dirname(file);
    this.#process = spawn(process.execPath, ["--enable-source-maps", file, "--worker", root], {
      cwd: root,
      env: environment,
      // A group of its own, which is killed with all that a sensor starts.
      detached: true,
      stdio: ["ignore", 2, 2, "pipe", "pipe"],
    });
    this.#ended = new Promise((resolve) => {
      this.#process.on("exit", (code, signal) => resolve(signal ? `signal: ${signal}` : `exit status: ${code}`));
      this.#process.on("error", (error) => resolve(error.message));
    });
    // One that has ended takes no more; its end is seen where its answer is missing.
    this.#process.stdio[3].on("error", () => {});
    this.#answers = lines(this.#process.stdio[4]);
  }

  lives() {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** The response, and whether the worker can be asked again. */
  async ask(request) {
    const number = ++this.#asked;
    const limit = request.limits?.time_ms;
    let timer;
    const late = new Promise((resolve) => {
      if (limit !== undefined) timer = setTimeout(resolve, limit, "late");
    });
    this.#process.stdio[3].write(`${JSON.stringify({ number, request })}\n`);
    const next = this.#answers.next().catch(() => ({ done: true }));
    const found = await Promise.race([next, late]);
    clearTimeout(timer);
    if (found === "late") return [{ error: `it did not come back within ${limit / 1000} s` }, false];
    if (found.done) return [{ error: `its process ended during the call (${await this.#end()})` }, false];
    try {
      const answered = JSON.parse(found.value);
      if (answered.number !== number) throw new RangeError(`number ${answered.number}`);
      return [answered.response, true];
    } catch (error) {
      return [{ error: `its host answered something else: ${error.message}` }, false];
    }
  }

  /** How it ended. It may be about to by itself. */
  async #end() {
    const timer = setTimeout(() => this.end(), 300);
    const status = await this.#ended;
    clearTimeout(timer);
    return status;
  }

  /** Ends it with all that it has started. */
  end() {
    try {
      process.kill(-this.#process.pid, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
    for (const stream of this.#process.stdio) stream?.destroy();
  }
}

/** The Lambda handler. */
export async function handler(event) {
  const found = await environment();
  if (child !== undefined && (child.startedWith !== JSON.stringify(found) || !child.lives())) {
    child.end();
    child = undefined;
  }
  child ??= new Child(found);
  let [response, isWhole] = await child.ask(event);
  if (response.unloadable || Object.keys(response.loaded ?? {}).length > 0) {
    // What is missing may be there the next time, in a new process, or in the secret.
    isWhole = false;
    own = undefined;
  }
  if (!isWhole) {
    child.end();
    child = undefined;
  }
  return response;
}

if (process.argv[2] === "--worker" && process.argv.length === 4) await work(process.argv[3]);
