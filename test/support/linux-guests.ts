// Guests in an emulated host that run stock Linux kernels: what comes over their serial lines, and what is typed there.
import type { EmulatedHost } from "./hosts.ts";

const TROUBLE = /^BAD .*|^tick \d+ bad.*|Kernel panic.*|\bOops\b.*|\bBUG: .*/m;
const GOES_ON_MS = 60_000;
const POLL_MS = 200;

/** A guest's serial line, as its process writes it into a file there: what it goes on with began in another process. */
export class Line {
  readonly #host: EmulatedHost;
  readonly path: string;
  /** What came out before, in the middle of a word or not. */
  before = "";

  constructor(host: EmulatedHost, path: string) {
    this.#host = host;
    this.path = path;
  }

  async text(): Promise<string> {
    return this.before + (await this.#host.exec(`cat ${this.path}`)).stdout;
  }

  async #trouble(what: string, text: string): Promise<Error> {
    return new Error(`${this.path}: ${what}: ${text.slice(-2000)}\n${await this.#host.whatGoesOn().catch(String)}`);
  }

  /** Waits until it has this. */
  async has(pattern: RegExp): Promise<RegExpExecArray> {
    for (const endMs = Date.now() + GOES_ON_MS; ; await Bun.sleep(POLL_MS)) {
      const text = await this.text();
      const found = pattern.exec(text);
      if (found) return found;
      if (Date.now() > endMs || TROUBLE.test(text)) throw await this.#trouble(`no ${pattern}`, text);
    }
  }

  /** Numbers of good ticks, in their order: none is missing, and nothing is wrong. */
  async ticks(more: number): Promise<number[]> {
    const numbers = (text: string) => Array.from(text.matchAll(/^tick (\d+) ok\r?$/gm), ([, number]) => Number(number));
    const before = numbers(await this.text()).length;
    for (const endMs = Date.now() + GOES_ON_MS; ; await Bun.sleep(POLL_MS)) {
      const text = await this.text();
      const trouble = TROUBLE.exec(text);
      if (trouble || Date.now() > endMs) throw await this.#trouble(`${trouble ?? "it does not go on"}`, text);
      const found = numbers(text);
      if (found.length < before + more) continue;
      const gap = found.findIndex((tick, i) => i > 0 && tick !== found[i - 1] + 1);
      if (gap > 0) throw new Error(`${this.path}: tick ${found[gap]} came after tick ${found[gap - 1]}`);
      return found;
    }
  }
}

export interface Guest {
  name: string;
  line: Line;
}

let named = 0;
/** A name that nobody has had, and its line. */
export function nameGuest(host: EmulatedHost): Guest {
  const name = `g${++named}`;
  return { name, line: new Line(host, `/tmp/${name}.line`) };
}

/** What starts a guest with a shell on its serial line, but for its name and that line. */
export const shellGuest = (version: string, more = ""): string =>
  `tram run --kernel /boot/vmlinuz-${version} --initrd /boot/shell-${version}.cpio --append 'console=ttyS0 quiet cryptomgr.notests' --memory 192M ${more}`;

/** A guest with a shell on its serial line, which is this process's standard input and output. */
export class Shell {
  readonly guest: Guest;
  readonly #host: EmulatedHost;
  readonly #input: string;

  constructor(host: EmulatedHost) {
    this.#host = host;
    this.guest = nameGuest(host);
    this.#input = `/tmp/${this.guest.name}.in`;
  }

  /** `start`: what begins it, but for its name and its serial line. */
  async begin(start: string, device: "serial" | "console" = "serial"): Promise<this> {
    const { name, line } = this.guest;
    await this.#host.run(`mkfifo ${this.#input} && { sleep 1000 >${this.#input} & }`);
    await this.#host.run(`{ ${start} --name ${name} --${device} stdio <${this.#input} >${line.path} 2>/tmp/${name}.log; echo "exit $?" >>/tmp/${name}.log; } >/dev/null 2>&1 &`); // biome-ignore format: one line
    return this;
  }

  type(text: string): Promise<string> {
    return this.#host.run(`echo ${JSON.stringify(text).replaceAll("$", "\\$")} >${this.#input}`);
  }

  /** What the process has said. */
  log(): Promise<string> {
    return this.#host.run(`cat /tmp/${this.guest.name}.log`);
  }

  /** Between which two values of the host's uptime the guest's began, in seconds. */
  async clock(): Promise<[number, number]> {
    const uptime = async () => Number((await this.#host.run("cut -d' ' -f1 /proc/uptime")).trim());
    const mark = `clock${Math.random().toString(36).slice(2)}`;
    const before = await uptime();
    await this.type(`echo ${mark} $(cut -d' ' -f1 /proc/uptime)`);
    const [, guest] = await this.guest.line.has(new RegExp(`^${mark} ([\\d.]+)`, "m"));
    return [before - Number(guest), (await uptime()) - Number(guest)];
  }
}
