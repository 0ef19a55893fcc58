// Each line that ends in `// error` has one, and no other line has.
import type { Issue, PullRequest, SensorRegistry } from "../loopy/index.js";

export const pull: PullRequest = {
  repo: "a/b",
  number: "1", // error
  draft: false,
  opened_at: "2026-01-01T00:00:00Z",
  kind: "bugs", // error
  labels: "x", // error
  files: [{ path: 5 }], // error
  extra: null,
};

export const misspelt: Issue = { title: "x", titel: "y" }; // error

export const issue: Issue = {}; // error

export const sensorRegistry = {
  wrongType: {
    webhook: "/a",
    emits: "Issue",
    run: () => ({ title: 5 }), // error
  },
  missing: {
    webhook: "/a",
    emits: "Issue",
    run: () => ({}), // error
  },
  otherField: {
    webhook: "/a",
    emits: "Issue",
    run: (): Issue => ({ titel: "x" }), // error
  },
  noField: {
    webhook: "/a",
    emits: "Issue",
    run: (request) => ({ title: request.heders }), // error
  },
  noEvent: {
    webhook: "/a",
    emits: "Nothing", // error
    run: () => null,
  },
  scheme: {
    webhook: "/a",
    emits: "Issue",
    verify: "gihub", // error
    run: () => null,
  },
  both: { // error
    webhook: "/a",
    poll: "5m",
    emits: "Issue",
    run: () => null,
  },
} satisfies SensorRegistry;
