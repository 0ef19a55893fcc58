// Runs a project's TypeScript sensors: one JSON request in, one JSON response out.
//
// As a Lambda function its handler is `loopy_sensors.handler`. On one machine it is
// started as `node loopy_sensors.mjs --worker CODE_DIR` in the project's folder, and
// reads a request a line from descriptor 3 and writes a response a line to descriptor
// 4, so that whatever sensor code prints is no response. Needs Node.js 18 and nothing
// else. The compiler has made JavaScript of the sensors; they lie below CODE_DIR, or
// beside this file.
//
// A sensor is called with a `Request` (webhook) or a `Tick` (poll). It may be a
// function, an async function, a generator or an async generator. It gives back
// nothing, the fields of one event, or an iterable of those, all of which are
// delivered. Anything else is an error.

import { createHash, createHmac } from "node:crypto";
import { writeSync } from "node:fs";
import { Socket } from "node:net";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
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
    throw new Unloadable(trace(error));
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

/** Rejects when the work takes too long. */
async function within(work, limit) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new SensorFault(`it did not come back within ${limit / 1000} s`)), limit);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

const [major] = process.versions.node.split(".").map(Number);

/** Answers a request. Whoever started a worker looks at the clock itself. */
async function answer(root, request, watched) {
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
    const { time_ms, response_bytes } = request.limits;
    const events = await (watched ? call(root, request) : within(call(root, request), time_ms));
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

// --- as a Lambda function -------------------------------------------------------

// What a sensor sees of the function's own environment.
const KEPT = new Set(["PATH", "LD_LIBRARY_PATH", "LANG", "TZ"]);

const root = dirname(fileURLToPath(import.meta.url));
const functions = { ...process.env };
let own;

const sha256 = (text) => createHash("sha256").update(text).digest("hex");
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

/** A secret's map of texts. One signed request: the whole SDK takes longer to load. */
async function secret(arn) {
  const region = functions.AWS_REGION;
  const suffix = region.startsWith("cn-") ? "amazonaws.com.cn" : "amazonaws.com";
  const url = new URL(functions.AWS_ENDPOINT_URL || `https://secretsmanager.${region}.${suffix}/`);
  const body = JSON.stringify({ SecretId: arn });
  const time = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
  const headers = {
    "content-type": "application/x-amz-json-1.1",
    host: url.host,
    "x-amz-date": time,
    "x-amz-target": "secretsmanager.GetSecretValue",
  };
  if (functions.AWS_SESSION_TOKEN) headers["x-amz-security-token"] = functions.AWS_SESSION_TOKEN;
  const names = Object.keys(headers).sort();
  const listed = names.map((name) => `${name}:${headers[name]}\n`).join("");
  const canonical = ["POST", "/", "", listed, names.join(";"), sha256(body)].join("\n");
  const scope = [time.slice(0, 8), region, "secretsmanager", "aws4_request"];
  const key = scope.reduce(hmac, `AWS4${functions.AWS_SECRET_ACCESS_KEY}`);
  const signature = hmac(key, ["AWS4-HMAC-SHA256", time, scope.join("/"), sha256(canonical)].join("\n"));
  const credential = `${functions.AWS_ACCESS_KEY_ID}/${scope.join("/")}`;
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

/** Leaves sensors nothing of the environment but what is theirs. */
async function limitEnvironment() {
  const arn = functions.LOOPY_SENSOR_SECRET;
  own ??= arn ? await secret(arn) : {};
  for (const name of Object.keys(process.env)) {
    if (!KEPT.has(name) && !(name in own)) delete process.env[name];
  }
  Object.assign(process.env, own);
}

/** The Lambda handler. */
export async function handler(event) {
  await limitEnvironment();
  const answered = await answer(root, event, false);
  // What is missing may be in the secret the next time.
  if (answered.unloadable || Object.keys(answered.loaded ?? {}).length > 0) own = undefined;
  return answered;
}

// --- as a worker ----------------------------------------------------------------

function respond(response) {
  const bytes = Buffer.from(`${JSON.stringify(response)}\n`);
  for (let at = 0; at < bytes.length; ) at += writeSync(4, bytes, at);
}

async function work(code) {
  const lines = createInterface({ input: new Socket({ fd: 3, readable: true, writable: false }), crlfDelay: Infinity });
  for await (const line of lines) {
    let request;
    try {
      request = JSON.parse(line);
    } catch (error) {
      respond({ error: `the request is not JSON: ${error.message}` });
      continue;
    }
    respond(await answer(code, request, true));
  }
  // What a sensor left running keeps nothing alive.
  process.exit(0);
}

if (process.argv[2] === "--worker" && process.argv.length === 4) await work(process.argv[3]);
