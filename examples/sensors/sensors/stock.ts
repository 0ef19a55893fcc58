// Takes what the shelves report, as a form: only what runs low becomes an event.
import type { SensorRegistry } from "../loopy/index.js";

export const sensorRegistry = {
  stock: {
    webhook: "/hooks/stock",
    verify: "none",
    emits: "LowStock",
    run: (request) => {
      const form = new URLSearchParams(new TextDecoder().decode(request.body));
      const left = Number(form.get("left"));
      return left < 10 ? { item: form.get("item") ?? "something", left } : null;
    },
  },
} satisfies SensorRegistry;
