import type { Request, SensorRegistry, Tick } from "../loopy/index.js";
import brought from "brought";
import { values, type Found } from "./lib/numbers";

const pause = () => new Promise<void>((done) => setTimeout(done, 1));

export const sensorRegistry = {
  ts_one: { webhook: "/typescript/one", emits: "Seen", verify: "none", run: () => values("one", brought.ONE)[0] },
  ts_none: {
    webhook: "/typescript/none",
    emits: "Seen",
    verify: "none",
    run: (): void => console.log("this one has nothing to say"),
  },
  ts_several: { webhook: "/typescript/several", emits: "Seen", verify: "none", run: () => values("several", 1, 2) },
  ts_generator: {
    webhook: "/typescript/generator",
    emits: "Seen",
    verify: "none",
    run: function* (): Generator<Found> {
      yield* values("generator", 1, 2, 3);
    },
  },
  ts_async: {
    webhook: "/typescript/async",
    emits: "Seen",
    verify: "none",
    run: async () => {
      await pause();
      return values("async", 1, 2);
    },
  },
  ts_stream: {
    webhook: "/typescript/stream",
    emits: "Seen",
    verify: "none",
    run: async function* () {
      for (const event of values("stream", 0, 1)) {
        await pause();
        yield event;
      }
    },
  },
  ts_request: {
    webhook: "/typescript/request",
    emits: "Seen",
    verify: "none",
    run: (request: Request) =>
      values("request", [
        request.method,
        request.path,
        request.headers.get("x-Custom"),
        request.query.getAll("a").map((value) => `a=${value}`).join("&"),
        [...request.body],
      ]),
  },
  ts_environment: {
    webhook: "/typescript/environment",
    emits: "Seen",
    verify: "none",
    run: () => values("environment", { names: Object.keys(process.env).sort(), token: process.env.TOKEN }),
  },
  ts_crash: { webhook: "/typescript/crash", emits: "Seen", verify: "none", run: () => process.exit(3) },
  ts_poll: { poll: "EVERY", emits: "Seen", onChange: true, run: (tick: Tick) => values("poll", tick.snapshot.length) },
  sleeps: { poll: "1d", emits: "Seen", run: () => new Promise<null>((done) => setTimeout(() => done(null), 20_000)) },
} satisfies SensorRegistry;
