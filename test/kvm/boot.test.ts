// Kernels of a few bytes, which run wherever KVM does: how they are begun, typed to, moved, switched off and begun again.
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_OFF_VALUE } from "../../src/machine/linux/acpi.ts";
import { type Bed, inBed, TRAM, whyNoKvm } from "../support/bed.ts";
import { ECHO, kernelOf, pvhKernelOf, sayAndWrite } from "../support/bzimage.ts";

const noKvm = whyNoKvm();
const needsKvm = test.skipIf(noKvm !== null);
const MEMORY = ["--memory", "64M"];

async function kernel(bed: Bed, ...code: number[]): Promise<string> {
  await Bun.write(bed.path("vmlinuz"), kernelOf(...code));
  return "vmlinuz";
}

const textOf = (path: string): string => (existsSync(path) ? readFileSync(path, "latin1") : "");

describe(`a kernel${noKvm ? ` (skipped: ${noKvm})` : ""}`, () => {
  needsKvm("is typed to through a pipe, and answers; then it is moved, and saved, and answers there", () =>
    inBed(async (bed) => {
      const file = await kernel(bed, ...ECHO);
      const spawn = (args: string[]) =>
        Bun.spawn([TRAM, ...args, "--serial", "stdio"], { cwd: bed.folder, env: bed.env, stdin: "pipe", stdout: Bun.file(bed.path(`${args.at(-1)}.out`)), stderr: "ignore" }); // biome-ignore format: one line
      const says = (name: string, text: string) => bed.until(async () => textOf(bed.path(`${name}.out`)) === text, `'${name}' says ${text}`); // biome-ignore format: one line
      const long = "0123456789".repeat(100); // many times what the port holds

      const a = spawn(["run", "--kernel", file, ...MEMORY, "--name", "a"]);
      a.stdin.write(`one ${long}`);
      await a.stdin.flush();
      await says("a", `one ${long}`);

      const b = spawn(["run", "--incoming", "unix:in.sock", "--name", "b"]);
      await bed.until(async () => existsSync(bed.path("in.sock")), "'b' waits");
      await bed.expectDone("migrate", "a", "unix:in.sock");
      expect(await a.exited).toBe(0);
      b.stdin.write("two");
      await b.stdin.flush();
      await says("b", "two");

      // What has come while it stood still is still on the line.
      await bed.expectDone("pause", "b");
      b.stdin.write("three");
      await b.stdin.flush();
      await Bun.sleep(200);
      await bed.expectDone("save", "b", "b.tram");
      expect(await b.exited).toBe(0);
      expect(textOf(bed.path("b.out"))).toBe("two");
      const c = spawn(["restore", "b.tram", "--name", "c"]);
      await bed.until(async () => (await bed.tram("resume", "c")).code === 0, "'c' is there");
      c.stdin.write(" four");
      await c.stdin.flush();
      await says("c", "three four");
      c.stdin.end(); // the line's other end has gone: the guest goes on
      await Bun.sleep(100);
      expect(await bed.expectDone("status", "c")).toContain("running");
      await bed.expectDone("quit", "c");
      expect(await c.exited).toBe(0);
    }),
  );

  needsKvm("has a terminal of its own, which is left as it was", () =>
    inBed(async (bed) => {
      const file = await kernel(bed, ...ECHO);
      const line = `stty -a >before; tram run --kernel ${file} --memory 64M --serial stdio; echo ended $?; stty -a >after`;
      const child = Bun.spawn(["script", "-qec", line, "/dev/null"], {
        cwd: bed.folder,
        env: { ...bed.env, TERM: "xterm", PATH: `${dirname(TRAM)}:${bed.env.PATH}` },
        stdin: "pipe",
        stdout: "pipe",
        stderr: "ignore",
      });
      let screen = "";
      const shown = (async () => {
        for await (const piece of child.stdout) screen += new TextDecoder().decode(piece);
      })();
      const type = async (text: string) => {
        child.stdin.write(text);
        await child.stdin.flush();
      };
      await bed.until(async () => screen.includes("Ctrl-A x ends the guest"), "it says how it is left");
      await type("\x03hello\x01a"); // Ctrl-C is the guest's
      await bed.until(async () => screen.includes("\x03hello\x01"), "the guest answers, by itself");
      await type("\x01x");
      await child.exited;
      await shown;
      expect(screen).toContain("ended 0");
      expect(textOf(bed.path("after"))).toBe(textOf(bed.path("before")));
      expect(textOf(bed.path("before"))).toContain("speed");
    }),
  );

  needsKvm("that switches its machine off ends tram run", () =>
    inBed(async (bed) => {
      const file = await kernel(bed, ...sayAndWrite("o", SLEEP_CONTROL_PORT, SLEEP_OFF_VALUE));
      const { code, stdout, stderr } = await bed.tram("run", "--kernel", file, ...MEMORY, "--serial", "stdio", "--name", "a"); // biome-ignore format: one line
      expect({ code, stdout }).toEqual({ code: 0, stdout: "o" });
      expect(stderr).toContain("'a' has shut down");
    }),
  );

  needsKvm("that is an ELF file is entered where it says", () =>
    inBed(async (bed) => {
      await Bun.write(bed.path("vmlinux"), pvhKernelOf(sayAndWrite("e", SLEEP_CONTROL_PORT, SLEEP_OFF_VALUE)));
      const { code, stdout } = await bed.tram(
        "run",
        "--kernel",
        "vmlinux",
        ...MEMORY,
        "--serial",
        "stdio",
        "--name",
        "a",
      );
      expect({ code, stdout }).toEqual({ code: 0, stdout: "e" });
    }),
  );

  needsKvm("that wants to start anew does, again and again, until it is ended; also while it is to be moved", () =>
    inBed(async (bed) => {
      const file = await kernel(bed, ...sayAndWrite("r", RESET_PORT, RESET_VALUE));
      const guest = bed.start(["run", "--kernel", file, ...MEMORY, "--cpus", "2", "--serial", "stdio", "--name", "a"]);
      await bed.until(async () => guest.stderr.split("starts anew").length > 5, "five times");
      await bed.target("b", "unix:in.sock");
      await bed.expectDone("migrate", "a", "unix:in.sock", "--max-downtime", "1s");
      expect(await guest.code).toBe(0);
      // There its kernel is not.
      await bed.until(async () => (await bed.tram("status", "b")).code === 2, "'b' has ended");
    }),
  );

  test.each<[string, string[], number, RegExp]>([
    ["is no kernel", ["--kernel", "text"], 2, /text is no Linux kernel/],
    ["is not there", ["--kernel", "nowhere"], 1, /cannot read nowhere: ENOENT: no such file or directory\n/],
    ["is a folder", ["--kernel", "."], 1, /cannot read \./],
    ["has an initrd that is not there", ["--kernel", "vmlinuz", "--initrd", "nowhere"], 1, /cannot read nowhere/],
    ["does not fit", ["--kernel", "vmlinuz", "--memory", "16M"], 2, /does not fit the guest's memory\n.*--memory 56M or more/],
    ["is missing", ["--initrd", "vmlinuz"], 2, /--kernel FILE/],
    ["is to be a walker, too", ["--kernel", "vmlinuz", "--guest", "walker"], 2, /exclude each other/],
    ["is to arrive, too", ["--kernel", "vmlinuz", "--incoming", "unix:x"], 2, /exclude each other/],
    ["has a walker's options", ["--kernel", "vmlinuz", "--dirty-rate", "max"], 2, /--dirty-rate is for --guest walker/],
    ["has a disk that is not there", ["--kernel", "vmlinuz", "--disk", "nowhere"], 1, /cannot open the disk .*nowhere: ENOENT/],
    ["has a folder for a disk", ["--kernel", "vmlinuz", "--disk", ".,mode=ro"], 2, / is no disk\n.*a regular file or a block device/],
    ["has a disk of no sector", ["--kernel", "vmlinuz", "--disk", "small"], 2, /small is too small for a disk/],
    ["has a disk in an unheard-of mode", ["--kernel", "vmlinuz", "--disk", "text,mode=x"], 2, /mode 'x' is not known/],
    ["has a disk twice", ["--kernel", "vmlinuz", "--disk", "text", "--disk", "text"], 7, /text is in use: another guest has it, or it was named twice/],
    ["has disks without end", ["--kernel", "vmlinuz", ...Array.from({ length: 9 }, () => "--disk=text,mode=ro")], 2, /too many/],
    ["has no such network", ["--kernel", "vmlinuz", "--net", "user"], 2, /'user' is no network[\s\S]*tap:NAME/],
    ["has a network with a long name", ["--kernel", "vmlinuz", "--net", "tap:abcdefghijklmnop"], 2, /at most 15 characters/],
    ["has a group's address", ["--kernel", "vmlinuz", "--net", "tap:t,mac=53:54:00:12:34:56"], 2, /no card's address/],
    ["has no such CPU", ["--kernel", "vmlinuz", "--cpu", "z80"], 2, /host or baseline/],
    ["has two lines on one terminal", ["--kernel", "vmlinuz", "--serial", "stdio", "--console", "stdio"], 2, /both want the terminal/],
    ["is a walker with sockets", ["--guest", "walker", "--vsock"], 2, /--vsock is for --kernel/],
    ["is a walker with a network", ["--guest", "walker", "--net", "none"], 2, /--net is for --kernel and --incoming/],
    ["is a walker with a console", ["--guest", "walker", "--console", "stdio"], 2, /--console is for --kernel and --incoming/],
    ["comes from elsewhere, with an address", ["--incoming", "unix:x.sock", "--net", "tap:t,mac=52:54:00:12:34:56"], 2, /the address that it was booted with/],
    ["boots from disks of another's", ["--kernel", "vmlinuz", "--disk-shared"], 2, /--disk-shared is for --incoming/],
    ["has a disk, and is a walker", ["--guest", "walker", "--disk", "text"], 2, /--disk is for --kernel/],
    ["is to run without KVM", ["--kernel", "vmlinuz", "--accel", "none"], 2, /runs nothing but the walker/],
  ])("that %s is refused", (_, args, exit, says) =>
    inBed(async (bed) => {
      await kernel(bed, ...ECHO);
      await Bun.write(bed.path("text"), "x".repeat(2000));
      await Bun.write(bed.path("small"), "x".repeat(511));
      const { code, stderr } = await bed.tram("run", ...args);
      expect({ code, stderr }).toEqual({ code: exit, stderr: expect.stringMatching(says) });
    }),
  ); // biome-ignore format: a row each
});
