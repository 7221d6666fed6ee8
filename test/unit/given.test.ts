// What somebody says of a guest's lines to its new host must fit what it has.
import { expect, test } from "bun:test";
import { checkGiven, type Given } from "../../src/machine/given.ts";
import type { MachineDescription } from "../../src/stream/devices/machine.ts";
import { errorOf } from "../support/errors.ts";

const plain: MachineDescription = {
  name: "a",
  memoryBytes: 64 << 20,
  cpus: 1,
  tscKhz: 0,
  walker: false,
  pc: true,
  balloon: false,
  vsock: false,
  console: false,
  mac: null,
  cpuid: [],
  disks: [],
};
const wired: MachineDescription = { ...plain, console: true, mac: "52:54:00:12:34:56" };
const nothing: Given = { net: null, console: false };

test.each<[string, MachineDescription, Given]>([
  ["nothing, and has none", plain, nothing],
  ["none", plain, { ...nothing, net: "none" }],
  ["a tap", wired, { ...nothing, net: "tap" }],
  ["none, and has a card: its cable is unplugged", wired, { ...nothing, net: "none" }],
  ["a console", wired, { net: "tap", console: true }],
])("a guest is taken that is given %s", (_, description, given) => {
  checkGiven(description, given);
});

test.each<[string, MachineDescription, Given, string]>([
  ["nothing for its network", wired, nothing, "the guest has a network card"],
  ["a tap, and has no card", plain, { ...nothing, net: "tap" }, "--net: the guest has no network card"],
  ["a console, and has none", plain, { ...nothing, console: true }, "--console: the guest has no console"],
])("a guest is refused that is given %s", (_, description, given, message) => {
  expect(errorOf(() => checkGiven(description, given))).toMatchObject({ code: "E_REFUSED", message });
});
