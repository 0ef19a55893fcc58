// Sensors that are right: no checker finds anything.
import type { PullRequest, SensorRegistry } from "../loopy/index.js";

function pull(json: any): PullRequest {
  return {
    repo: json.repo,
    number: 1,
    draft: false,
    opened_at: new Date(),
    kind: "bug",
    labels: ["a"],
    files: [{ path: "a" }, { path: "b", line: 3 }],
    extra: { any: ["thing"] },
  };
}

export const sensorRegistry = {
  ts_one: {
    webhook: "/hooks/github/ts",
    emits: "PullRequest",
    verify: "github",
    run: (request) =>
      request.headers.get("x-github-event") === "pull_request" ? pull(request.json) : null,
  },
  ts_several: {
    poll: "5m",
    emits: "Issue",
    *run(tick) {
      yield { title: tick.last_run.toISOString() };
    },
  },
  ts_coroutine: { poll: "5m", emits: "Issue", run: async () => [{ title: "x" }] },
  ts_stream: {
    poll: "5m",
    emits: "Issue",
    async *run() {
      yield { title: "x" };
    },
  },
  ts_nothing: { poll: "5m", emits: "Issue", run() {} },
  ts_odd: {
    webhook: "/odd/ts",
    emits: "Odd Name",
    verify: "none",
    run: (request) => ({ class: request.query.getAll("a")[0] ?? "", from: request.body.length }),
  },
} satisfies SensorRegistry;
