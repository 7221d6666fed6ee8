import { describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { Bed } from "../support/bed.ts";

interface Report {
  schema: string;
  checks: { name: string; state: string; found: string; remedy?: string }[];
}

describe("tram doctor", () => {
  test("says the same in both forms, and leaves nothing in the folder that it tried", async () => {
    const bed = new Bed();
    try {
      const text = await bed.tram("doctor");
      const json = await bed.tram("doctor", bed.folder, "--json");
      expect({ text: text.stderr, json: json.stderr }).toEqual({ text: "", json: "" });
      // Whatever this host lacks: the commands' needs are met where this test runs.
      expect({ text: text.code, json: json.code }).toEqual({ text: 0, json: 0 });
      expect(readdirSync(bed.folder)).toEqual(["tram"]); // the runtime folder

      const { schema, checks } = JSON.parse(json.stdout) as Report;
      expect(schema).toBe("tram/1");
      expect(checks.length).toBeGreaterThan(8);
      const states = checks.map(({ state, remedy }) => ({ state, hasRemedy: remedy !== undefined }));
      for (const { state, hasRemedy } of states) {
        expect(["ok", "limited", "missing"]).toContain(state);
        expect(hasRemedy).toBe(state !== "ok");
      }
      expect(checks.find(({ name }) => name === "runtime-folder")?.found).toBe(`${bed.path("tram")}, mode 0700`);

      const lines = text.stdout.trimEnd().split("\n");
      expect(lines.filter((line) => !line.startsWith(" ")).map((line) => line.split(/ +/).slice(0, 2))).toEqual([
        ...checks.map(({ state, name }) => [state, name]),
        [String(checks.filter(({ state }) => state === "ok").length), "ok,"],
      ]);
      expect(lines.filter((line) => line.startsWith("         remedy: "))).toHaveLength(
        checks.filter(({ remedy }) => remedy !== undefined).length,
      );
    } finally {
      await bed.dispose();
    }
  });

  test("a folder that is not there is usage", async () => {
    const bed = new Bed();
    try {
      const { code, stdout, stderr } = await bed.tram("doctor", "nowhere");
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain(`there is no folder ${bed.path("nowhere")}`);
    } finally {
      await bed.dispose();
    }
  });
});
