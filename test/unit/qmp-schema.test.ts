// What the QMP socket says that it takes, what it does take, and what QEMU's clients set before a migration.
import { describe, expect, test } from "bun:test";
import { TramError } from "../../src/errors.ts";
import { COMMANDS } from "../../src/qmp/commands.ts";
import { badArguments, COMMAND_TYPES, introspect } from "../../src/qmp/schema.ts";
import { MigrationSettings } from "../../src/qmp/settings.ts";

type Info = Record<string, unknown> & { name: string; "meta-type": string };

describe("the schema", () => {
  test("has each command that there is, and no other", () => {
    expect(Object.keys(COMMAND_TYPES).sort()).toEqual([...Object.keys(COMMANDS), "qmp_capabilities"].sort());
  });

  test("names only what it describes, once, and describes only what is named", () => {
    const infos = introspect() as Info[];
    const named = new Map(infos.map((info) => [info.name, info]));
    expect(named.size).toBe(infos.length);
    const used = new Set<string>();
    for (const info of infos) {
      const members = (info.members ?? []) as { type?: string }[];
      for (const type of [info["arg-type"], info["ret-type"], info["element-type"], ...members.map(({ type }) => type)])
        if (typeof type === "string") used.add(type);
    }
    for (const type of used) expect(named.has(type)).toBeTrue();
    const roots = infos.filter((info) => ["command", "event"].includes(info["meta-type"])).map(({ name }) => name);
    expect([...named.keys()].filter((name) => !used.has(name)).sort()).toEqual(roots.sort());
  });

  test("says what QEMU says of optional members, enumerations and lists", () => {
    const named = new Map((introspect() as Info[]).map((info) => [info.name, info]));
    expect(named.get("migrate")).toEqual({
      name: "migrate",
      "meta-type": "command",
      "arg-type": "q_obj_migrate-arg",
      "ret-type": "q_empty",
      "allow-oob": false,
    });
    expect(named.get("q_obj_migrate-arg")?.members).toEqual([
      { name: "uri", type: "str" },
      { name: "detach", type: "bool", default: null },
      { name: "tram", type: "any", default: null },
    ]);
    expect(named.get("[CommandInfo]")).toEqual({
      name: "[CommandInfo]",
      "meta-type": "array",
      "element-type": "CommandInfo",
    });
    expect(named.get("MultiFDCompression")).toMatchObject({ "meta-type": "enum", values: ["none", "zstd"] });
    expect(named.get("MIGRATION")).toEqual({
      name: "MIGRATION",
      "meta-type": "event",
      "arg-type": "q_obj_MIGRATION-arg",
    });
  });
});

test.each<[string, Record<string, unknown>, string | null]>([
  ["migrate", { uri: "tcp:a:1" }, null],
  ["migrate", {}, "Parameter 'uri' is missing"],
  ["migrate", { uri: 5 }, "Invalid parameter type for 'uri', expected: string"],
  ["migrate", { uri: "tcp:a:1", detach: "yes" }, "Invalid parameter type for 'detach', expected: boolean"],
  ["stop", { now: true }, "Parameter 'now' is unexpected"],
  ["stop", JSON.parse('{"__proto__": 1}'), "Parameter '__proto__' is unexpected"],
  ["migrate-set-capabilities", { capabilities: {} }, "Invalid parameter type for 'capabilities', expected: array"],
  [
    "migrate-set-capabilities",
    { capabilities: [{ capability: "events", state: true }, "x"] },
    "Invalid parameter type for 'capabilities[1]', expected: object",
  ],
  [
    "migrate-set-capabilities",
    { capabilities: [{ capability: "warp", state: true }] },
    "Parameter 'capabilities[0].capability' does not accept value 'warp'",
  ],
  [
    "migrate-set-capabilities",
    { capabilities: [{ capability: "events" }] },
    "Parameter 'capabilities[0].state' is missing",
  ],
  [
    "migrate-set-parameters",
    { "downtime-limit": 0.5 },
    "Invalid parameter type for 'downtime-limit', expected: integer",
  ],
  ["calc-dirty-rate", { "calc-time": 1, mode: "guess" }, "Parameter 'mode' does not accept value 'guess'"],
  ["tram-save", { fdname: "x", after: "quit", anything: [] }, null],
])("%s takes %o: %p", (command, args, expected) => {
  expect(badArguments(command, args)).toBe(expected);
});

describe("what is set before a migration", () => {
  const caught = (action: () => void): string => {
    try {
      action();
    } catch (error) {
      if (error instanceof TramError) return error.message;
      throw error;
    }
    return "";
  };

  test("is nothing at first: a move as tram's own, limits as QEMU's", () => {
    const settings = new MigrationSettings();
    expect(settings.options()).toEqual({ maxBandwidthBytesPerSec: 0, maxDowntimeMs: 300, channels: 0 });
    const states = new Map(settings.capabilities().map(({ capability, state }) => [capability, state]));
    expect([...states].filter(([, state]) => state)).toEqual([["return-path", true]]);
    expect(states.get("xbzrle")).toBeFalse();
  });

  test("becomes options of a move", () => {
    const settings = new MigrationSettings();
    const on = ["multifd", "auto-converge", "pause-before-switchover"].map((capability) => ({
      capability,
      state: true,
    }));
    settings.setCapabilities(on);
    expect(settings.setParameters({ "max-bandwidth": 5, "multifd-channels": 4 })).toEqual({
      maxBandwidthBytesPerSec: 5,
    });
    settings.setParameters({ "multifd-compression": "zstd", "multifd-zstd-level": 3, "downtime-limit": 7 });
    expect(settings.options()).toEqual({
      maxBandwidthBytesPerSec: 5,
      maxDowntimeMs: 7,
      channels: 4,
      compressLevel: 3,
      timeoutMs: 1000,
      onTimeout: "throttle",
      hold: true,
    });
  });

  test("is refused by name where tram has nothing for it, and then nothing of it is set", () => {
    const settings = new MigrationSettings();
    const pair = [
      { capability: "multifd", state: true },
      { capability: "postcopy-ram", state: true },
    ];
    expect(caught(() => settings.setCapabilities(pair))).toBe("tram does not support the capability 'postcopy-ram'");
    expect(settings.has("multifd")).toBeFalse();
    expect(caught(() => settings.setCapabilities([{ capability: "xbzrle", state: false }]))).toBe("");
    expect(caught(() => settings.setCapabilities([{ capability: "return-path", state: false }]))).toContain(
      "cannot be switched off",
    );
    expect(caught(() => settings.setParameters({ "max-bandwidth": 1, "multifd-channels": 0 }))).toContain(
      "in the range of 1 to",
    );
    expect(settings.parameters()["max-bandwidth"]).toBe(0);
    expect(caught(() => settings.setParameters({ "tls-creds": "tls0" }))).toContain("'tls-creds'");
    expect(caught(() => settings.setParameters({ "tls-creds": "" }))).toBe("");
  });

  test("zero-copy wants channels, and nothing compressed", () => {
    const settings = new MigrationSettings();
    settings.setCapabilities([{ capability: "zero-copy-send", state: true }]);
    expect(caught(() => settings.options())).toContain("multifd");
    settings.setCapabilities([{ capability: "multifd", state: true }]);
    expect(settings.options()).toMatchObject({ channels: 2, zeroCopy: "on" });
    settings.setParameters({ "multifd-compression": "zstd" });
    expect(caught(() => settings.options())).toContain("non-compressed");
  });
});
