// tram balloon: how much of its memory a guest has, and that it is to have more or less of it.
import { EXIT, TramError } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { isQemu } from "../qmp/migration.ts";
import { command } from "./command.ts";
import { print } from "./console.ts";
import { JSON_ARG, VM_ARG, withGuest } from "./guest.ts";
import { readMemoryBytes } from "./guest-facts.ts";
import { JSON_SCHEMA } from "./report.ts";
import { formatBytes, formatMs, parseDuration, parseMemory } from "./units.ts";

const POLL_MS = 20;
const DEFAULT_TIMEOUT_MS = 10_000;

export const balloon = command({
  name: "balloon",
  summary: "gives a guest more or less of its memory",
  args: {
    vm: VM_ARG,
    size: {
      type: "positional",
      description: "what the guest is to have, up to all of its memory; without it: what it has",
      required: false,
    },
    timeout: {
      type: "string",
      description: "how long to wait until it has followed (default 10s; 0s: not at all)",
      valueHint: "TIME",
    },
    json: JSON_ARG,
  },
  examples: ["tram balloon a", "tram balloon a 512M", "tram balloon unix:/run/qemu.qmp 2G --timeout 1m"],
  async run(args) {
    const size = args.size === undefined ? null : parseMemory(args.size, "SIZE");
    const timeoutMs = args.timeout === undefined ? DEFAULT_TIMEOUT_MS : parseDuration(args.timeout, "--timeout");
    return withGuest(args.vm, async (client) => {
      const memoryBytes = await readMemoryBytes(client);
      if (size !== null) await resize(client, args.vm, size, memoryBytes);
      const startedMs = performance.now();
      let actual = await actualOf(client, args.vm);
      while (size !== null && actual !== size && performance.now() - startedMs < timeoutMs) {
        await Bun.sleep(POLL_MS);
        actual = await actualOf(client, args.vm);
      }
      const hasFollowed = size === null || actual === size || timeoutMs === 0;
      if (args.json)
        print(
          JSON.stringify({
            schema: JSON_SCHEMA,
            name: args.vm,
            memoryBytes,
            wantedGuestBytes: size,
            guestBytes: actual,
            balloonBytes: memoryBytes - actual,
          }),
        );
      else if (hasFollowed) print(`${args.vm}: ${describe(actual, memoryBytes)}`);
      if (hasFollowed) return EXIT.done;
      throw new TramError("E_TIMED_OUT", `the guest has not followed in ${formatMs(timeoutMs)}`, {
        expected: formatBytes(size),
        found: describe(actual, memoryBytes),
        next: "it goes on with it: look again with tram balloon; a guest gives up no more than it can do without, and needs a driver for it",
      });
    });
  },
});

async function resize(client: QmpClient, vm: string, size: number, memoryBytes: number): Promise<void> {
  if (memoryBytes === 0)
    throw new TramError("E_STATE", `'${vm}' is not there yet`, { next: "wait until it has booted, or arrived" });
  if (size > memoryBytes)
    throw new TramError("E_USAGE", `'${vm}' has no more memory than it was started with`, {
      expected: `at most ${formatBytes(memoryBytes)}`,
      found: formatBytes(size),
    });
  const facts = (await isQemu(client)) ? {} : await client.execute<{ isDriven?: boolean }>("tram-query-balloon");
  if (facts.isDriven === false)
    throw new TramError("E_STATE", `'${vm}' has a balloon, and no driver for it`, {
      next: "Linux has one, virtio_balloon, and needs virtio_mmio for it; a walker drives it if it was started with --free SIZE",
    });
  await client.execute("balloon", { value: size });
}

const actualOf = async (client: QmpClient, vm: string): Promise<number> => {
  try {
    return (await client.execute<{ actual: number }>("query-balloon")).actual;
  } catch {
    throw new TramError("E_STATE", `'${vm}' has no balloon`, {
      next: "start it with tram run --balloon, or QEMU with -device virtio-balloon-pci",
    });
  }
};

const describe = (actual: number, memoryBytes: number): string =>
  actual === memoryBytes
    ? `${formatBytes(actual)}, all of its memory`
    : `${formatBytes(actual)} of ${formatBytes(memoryBytes)}; ${formatBytes(memoryBytes - actual)} in its balloon`;
