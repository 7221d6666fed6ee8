// tram run -d, tram restore -d: the guest's process in a session of its own, with a log where a terminal would be.
//
//   caller                                 the guest's process (setsid; stdin /dev/null; stdout, stderr: the log)
//   makes the log, without its name yet
//   starts ──────────────────────────────► claims its socket; the log gets its name beside that
//   waits for the pipe's end ◄──────────── the guest runs, waits or is paused: its name; goes to /
//   says what the log has until then, and ends
import { copyFileSync, fstatSync, ftruncateSync, openSync, readFileSync, renameSync, rmSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { EXIT, reasonOf, TramError } from "../errors.ts";
import { net } from "../native/net.ts";
import { print, say, writeAll } from "./console.ts";
import { logPathOf, statOrNull } from "./runtime.ts";
import { ownCommand } from "./self.ts";

/** Tells the process what it is: the path of its log, which has no name of a guest's yet. */
const MARK = "TRAM_DETACHED";
const READY_FD = 3;
/** What is said beyond this goes, once, to NAME.log.1. */
const LOG_BYTES_MAX = 1 << 20;
const LOG_LOOK_MS = 1000;

/** The side of the guest's process. */
export class Detached {
  #log: string;
  #isReady = false;

  private constructor(log: string) {
    this.#log = log;
  }

  /** Null: this process was not started by detach. Once: what it starts itself is not told. */
  static here(): Detached | null {
    const log = process.env[MARK];
    if (log === undefined) return null;
    delete process.env[MARK];
    return new Detached(log);
  }

  /** The socket is this guest's, and so is the log beside it; that of the one before is kept. */
  nameLog(socketPath: string): void {
    const path = logPathOf(socketPath);
    try {
      if (statOrNull(path)) renameSync(path, `${path}.1`);
      renameSync(this.#log, path);
    } catch (error) {
      throw new TramError("E_FILE", `cannot make the log ${path}: ${reasonOf(error)}`);
    }
    this.#log = path;
    setInterval(() => this.#bound(), LOG_LOOK_MS).unref();
  }

  /** Who writes to it, commands of exec: too, appends: all go on at its new end. */
  #bound(): void {
    if (fstatSync(2).size <= LOG_BYTES_MAX) return;
    try {
      copyFileSync(this.#log, `${this.#log}.1`);
    } catch {
      // a full disk: what is oldest is lost
    }
    ftruncateSync(2, 0);
  }

  /** The guest is there, and no path that was given is still to be looked up: no folder is kept busy. */
  ready(name: string): void {
    this.#isReady = true;
    process.chdir("/");
    writeAll(READY_FD, name); // a caller that has gone does not matter
    net.close(READY_FD);
  }

  /** The process ends. Of a guest that never was there the caller has heard all that there is to say. */
  cleanUp(): void {
    if (!this.#isReady) rmSync(this.#log, { force: true });
  }
}

/** The side of the caller; `folder`: where the guest's socket goes. Prints the guest's name when it is there. */
export async function detach(folder: string): Promise<number> {
  let child: Subprocess | null = null;
  let signal: NodeJS.Signals | null = null;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
    process.on(name, () => {
      child?.kill(signal ? "SIGKILL" : "SIGTERM");
      signal = name;
    });
  const path = join(folder, `.tram-${process.pid}.log`);
  const log = makeLog(path);
  const pipe = net.pipe();
  child = Bun.spawn(ownCommand(process.argv.slice(2)), {
    detached: true,
    stdio: ["ignore", log, log, pipe.write],
    env: { ...process.env, [MARK]: path },
  });
  net.close(pipe.write);
  const name = await new Response(Bun.file(pipe.read).stream()).text();
  if (name === "" || signal) await child.exited;
  writeAll(2, readFileSync(`/proc/self/fd/${log}`)); // by whatever name it has
  if (name === "" || signal) rmSync(path, { force: true });
  if (signal) throw new TramError("E_INTERRUPTED", `interrupted by ${signal}: the guest's process was ended`);
  if (name !== "") {
    print(name);
    noteLogout(folder);
    return EXIT.done;
  }
  if (child.exitCode) return child.exitCode; // it has said why
  throw new TramError("E_GUEST", "the guest's process has ended before its guest was there", {
    found: child.signalCode ? `killed by ${child.signalCode}` : "exit code 0",
  });
}

function makeLog(path: string): number {
  try {
    return openSync(path, "ax+", 0o600);
  } catch (error) {
    throw new TramError("E_FILE", `cannot make the guest's log ${path}: ${reasonOf(error)}`, {
      next: "it goes beside the guest's socket: choose another --qmp, or leave that out",
    });
  }
}

/** Where systemd watches over sessions it takes the runtime folder away with the last of them. */
function noteLogout(folder: string): void {
  const own = `/run/user/${process.getuid?.()}`;
  if (!folder.startsWith(`${own}/`) || !statOrNull("/run/systemd/system")) return;
  const { username } = userInfo();
  if (statOrNull(`/var/lib/systemd/linger/${username}`)) return;
  say(
    `when ${username} logs out, systemd removes ${own}, and the guest goes on unreachable: loginctl enable-linger prevents that`,
  );
}
