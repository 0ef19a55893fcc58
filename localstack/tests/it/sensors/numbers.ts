export interface Found {
  case: string;
  by: string;
  value: unknown;
}

export const values = (of: string, ...found: unknown[]): Found[] =>
  found.map((value) => ({ case: of, by: "typescript", value }));
