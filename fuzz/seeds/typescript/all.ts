import { x } from "./y";
const r = /[{]/g, P = "5m", t = `a${`{${1}`}"`;
type A<T extends string = "x"> = { [K in T]?: number };
export const sensorRegistry: Record<string, { emits: string }> = {
  /* one */ hook: { webhook: "/hooks/pr", emits: 'Ping' as const, verify: `github`, run(req) { return { emits: "No" } } },
  "poll-er": { poll: P, emits: "Pong", run: async function* (tick) { yield { a: [1, 2] }; }, },
} as const satisfies object;
