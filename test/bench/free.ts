// The eighth part of make bench: guests with free memory. What their moves and saves come to when they are asked for it, and when
// they are not; what a guest that does not answer costs; when it pays to have a guest give up its page cache first; what being
// asked costs the guest. Prints each sample as a line of JSON, writes FREE.md. Aims that are missed fail nothing. BENCH_QUICK=1:
// small guests and few rounds, into build/bench/.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { whyNoKvm } from "../support/bed.ts";
import {
  availableMemoryGib,
  bounded,
  contest,
  diskOf,
  type Extent,
  environment,
  freeGib,
  print,
  type Samples,
  scratchFolder,
} from "./contest.ts";
import {
  type Asked,
  askFree,
  type FreeMove,
  type FreeSave,
  type GuestOptions,
  moveFree,
  type Pages,
  paceOfHost,
  RECORD_BYTES,
  saveFree,
  usedPages,
  type Way,
} from "./freeing.ts";
import { median, ratios, spread, table, verdict } from "./stats.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
const MEMORY_MIB = QUICK ? 512 : 2048;
const PERCENTS = [25, 50, 90];
const UNTOUCHED_PERCENT = 50;
const MOVES: Extent = { rounds: QUICK ? 2 : 5, seconds: 480 };
const SAVES: Extent = { rounds: QUICK ? 1 : 5, seconds: 480 };
const DELAYS: Extent = { rounds: QUICK ? 3 : 20, seconds: 600 };
const DROPS: Extent = { rounds: QUICK ? 1 : 3, seconds: 400 };
const ASKS: Extent = { rounds: QUICK ? 2 : 5, seconds: 120 };
const BUILD = resolve(import.meta.dir, "../../build");
const RESULTS = join(QUICK ? join(BUILD, "bench") : import.meta.dir, QUICK ? "FREE.quick.md" : "FREE.md");
const AIM = { bytes: 1.05, delayMs: 100 };
/** A walker that writes fewer pages in a millisecond runs in KVM's instruction emulator; a CPU writes thousands. */
const EMULATED_PER_MS = 300;

const mib = (bytes: number, digits = 0): string => (bytes / MIB).toFixed(digits);
const count = (pages: number): string => Math.round(pages).toLocaleString("en-US");

/** The figures of all samples of one contestant. */
const column = <T>(of: T[], digits: number, pick: (one: T) => number): string => spread(of.map(pick), digits);

// --- moves and saves

const WAYS: Record<string, Way> = {
  neither: { skipFree: false, lookAtAll: true },
  "untouched-skip": { skipFree: false },
  hints: {},
};

/** A kind of guest, as it is called in tables. */
type Kinds = Record<string, GuestOptions>;

const freeOf = (percent: number): number => Math.round((MEMORY_MIB * percent) / 100);
const kind = (percent: number, touched: boolean): GuestOptions => ({
  memoryMib: MEMORY_MIB,
  freeMib: freeOf(percent),
  touched,
});
const TOUCHED: Kinds = Object.fromEntries(PERCENTS.map((percent) => [`${percent} % free`, kind(percent, true)]));
const KINDS: Kinds = {
  ...TOUCHED,
  [`${UNTOUCHED_PERCENT} % free, never touched`]: kind(UNTOUCHED_PERCENT, false),
};

/** Interleaved within each kind of guest. */
async function ofKinds<T extends object>(
  section: string,
  kinds: Kinds,
  ways: Record<string, (guest: GuestOptions) => Promise<T>>,
  extent: Extent,
): Promise<Record<string, Samples<T>>> {
  const found: Record<string, Samples<T>> = {};
  for (const [name, guest] of Object.entries(kinds)) {
    const contestants = Object.entries(ways).map(([way, once]) => [way, () => once(guest)] as const);
    const each = { ...extent, seconds: extent.seconds / Object.keys(kinds).length };
    found[name] = await contest(`${section}, ${name}`, Object.fromEntries(contestants), each);
  }
  return found;
}

const usedBytes = (guest: GuestOptions): number => usedPages(guest) * RECORD_BYTES;
const usedShare = (guest: GuestOptions): number => usedPages(guest) / ((guest.memoryMib * MIB) / PAGE_BYTES);

const rowsOf = <T>(found: Record<string, Samples<T>>, row: (guest: GuestOptions, of: T[], base: T[]) => string[]) =>
  Object.entries(found).flatMap(([name, samples]) =>
    Object.entries(samples).map(([way, of]) => [`${name}, ${way}`, ...row(KINDS[name], of, Object.values(samples)[0])]),
  );

function moveTable(found: Record<string, Samples<FreeMove>>): string {
  const head = [
    "",
    "MiB sent",
    "÷ used",
    "move, s",
    "bulk pass, s",
    "CPU ms",
    "downtime ms",
    "waited for the guest, ms",
  ];
  const rows = rowsOf(found, (guest, of) => [
    column(of, 1, ({ bytes }) => bytes / MIB),
    column(of, 3, ({ bytes }) => bytes / usedBytes(guest)),
    column(of, 3, ({ wholeMs }) => wholeMs / 1000),
    column(of, 3, ({ bulkMs }) => bulkMs / 1000),
    column(of, 0, ({ cpuMs }) => cpuMs),
    column(of, 0, ({ downtimeMs }) => downtimeMs),
    of[0].hints ? column(of, 0, ({ hints }) => hints?.waitedMs ?? 0) : "",
  ]);
  return table(head, rows);
}

function limitTable(found: Record<string, Samples<FreeMove>>): string {
  const head = ["", "used ÷ RAM", "bytes", "move", "bulk pass", "CPU"];
  const rows = rowsOf(found, (guest, of, base) => {
    const ratio = (pick: (one: FreeMove) => number) => spread(ratios(of.map(pick), base.map(pick)));
    return [
      usedShare(guest).toFixed(2),
      ratio(({ bytes }) => bytes),
      ratio(({ wholeMs }) => wholeMs),
      ratio(({ bulkMs }) => bulkMs),
      ratio(({ cpuMs }) => cpuMs),
    ];
  });
  return table(
    head,
    rows.filter(([name]) => !name.endsWith(", neither")),
  );
}

function pageTable(found: Record<string, Samples<{ pages: Pages; nonZeroPages: number }>>, first: string): string {
  const head = ["", first, "zero", "untouched", "hinted", `of the ${first} again`, "used", "not zero afterwards"];
  const rows = rowsOf(found, (guest, of) => {
    const pages = (pick: (one: Pages) => number) => count(median(of.map((one) => pick(one.pages))));
    return [
      pages(({ sent }) => sent),
      pages(({ zero }) => zero),
      pages(({ untouched }) => untouched),
      pages(({ hinted }) => hinted),
      pages(({ resent }) => resent),
      count(usedPages(guest)),
      count(median(of.map(({ nonZeroPages }) => nonZeroPages))),
    ];
  });
  return table(head, rows);
}

function saveTable(found: Record<string, Samples<FreeSave>>): string {
  const head = [
    "",
    "MiB on disk",
    "÷ used",
    "command, s",
    "by its report, s",
    "÷ no hints",
    "used ÷ RAM",
    "downtime ms",
  ];
  const rows = rowsOf(found, (guest, of, base) => [
    column(of, 1, ({ allocatedBytes }) => allocatedBytes / MIB),
    column(of, 3, ({ allocatedBytes }) => allocatedBytes / (usedPages(guest) * PAGE_BYTES)),
    column(of, 2, ({ commandMs }) => commandMs / 1000),
    column(of, 2, ({ elapsedMs }) => elapsedMs / 1000),
    spread(
      ratios(
        of.map(({ elapsedMs }) => elapsedMs),
        base.map(({ elapsedMs }) => elapsedMs),
      ),
    ),
    usedShare(guest).toFixed(2),
    column(of, 0, ({ downtimeMs }) => downtimeMs),
  ]);
  return table(head, rows);
}

// --- guests that are slow to answer

const DELAY_GUEST = { memoryMib: 128, freeMib: 64, touched: true, pages: 1000 } as const;
/** A late answer comes beside the bulk pass only where that takes long enough. */
const LATE_BYTES_PER_SEC = 200 * MIB;
const SLOW = {
  "never answers": { habit: "silent", way: {} },
  "answers late": { habit: "late", way: {} },
  [`answers late, ${LATE_BYTES_PER_SEC / MIB} MiB/s`]: {
    habit: "late",
    way: { maxBandwidthBytesPerSec: LATE_BYTES_PER_SEC },
  },
  "answers at once": { habit: "keep", way: {} },
} as const;
const SILENT = "never answers";
const ASKED = { "not asked": { skipFree: false }, asked: {} } as const;

const delays = (): Promise<Samples<FreeMove>> =>
  contest(
    "delays",
    Object.fromEntries(
      Object.entries(SLOW).flatMap(([name, { habit, way }]) =>
        Object.entries(ASKED).map(([asked, ask]) => [
          `${name}, ${asked}`,
          () => moveFree({ ...DELAY_GUEST, habit }, { ...way, ...ask }),
        ]),
      ),
    ),
    DELAYS,
  );

/** Of each round, in milliseconds. */
const delaysOf = (found: Samples<FreeMove>, name: string): number[] =>
  found[`${name}, asked`].map(({ wholeMs }, i) => wholeMs - found[`${name}, not asked`][i].wholeMs);
const waitsOf = (found: Samples<FreeMove>, name: string): number[] =>
  found[`${name}, asked`].map(({ hints }) => hints?.waitedMs ?? 0);

function delayTable(found: Samples<FreeMove>): string {
  const head = [
    "the guest",
    "not asked, ms",
    "asked, ms",
    "added, ms",
    "waited, ms",
    "named pages",
    "of these left out",
    "came to an end",
  ];
  const rows = Object.keys(SLOW).map((name) => {
    const [not, asked] = Object.keys(ASKED).map((one) => found[`${name}, ${one}`]);
    return [
      name,
      column(not, 0, ({ wholeMs }) => wholeMs),
      column(asked, 0, ({ wholeMs }) => wholeMs),
      spread(delaysOf(found, name), 0),
      spread(waitsOf(found, name), 0),
      count(median(asked.map(({ hints }) => hints?.pages ?? 0))),
      count(median(asked.map(({ pages }) => pages.hinted))),
      `${asked.filter(({ hints }) => hints?.hasEnded).length} of ${asked.length}`,
    ];
  });
  return table(head, rows);
}

// --- the page cache

const DROP_MIB = QUICK ? 128 : 256;
const DROP_GUEST: GuestOptions = {
  memoryMib: DROP_MIB,
  freeMib: DROP_MIB / 2,
  cacheMib: DROP_MIB / 4,
  touched: true,
};
/** MiB a second; null: no limit. */
const DROP_RATES = QUICK ? [null, 15] : [null, 40, 15, 6];
const rateName = (rate: number | null): string => (rate === null ? "no limit" : `${rate} MiB/s`);

async function drops(): Promise<Record<string, Samples<FreeMove>>> {
  const found: Record<string, Samples<FreeMove>> = {};
  for (const rate of DROP_RATES) {
    const limit = rate === null ? {} : { maxBandwidthBytesPerSec: rate * MIB };
    found[rateName(rate)] = await contest<FreeMove>(
      `page cache, ${rateName(rate)}`,
      { keep: () => moveFree(DROP_GUEST, limit), drop: () => moveFree(DROP_GUEST, { ...limit, pageCache: "drop" }) },
      { ...DROPS, seconds: DROPS.seconds / DROP_RATES.length },
    );
  }
  return found;
}

function dropTable(found: Record<string, Samples<FreeMove>>): string {
  const head = [
    "--max-bandwidth",
    "keep: MiB",
    "drop: MiB",
    "keep: s",
    "drop: s",
    "of these the drop, s",
    "drop ÷ keep, time",
    "drop: MiB free before",
    "behind it",
  ];
  const rows = Object.entries(found).map(([name, { keep, drop }]) => [
    name,
    column(keep, 0, ({ bytes }) => bytes / MIB),
    column(drop, 0, ({ bytes }) => bytes / MIB),
    column(keep, 2, ({ wholeMs }) => wholeMs / 1000),
    column(drop, 2, ({ wholeMs }) => wholeMs / 1000),
    column(drop, 2, ({ cacheDrop }) => (cacheDrop?.elapsedMs ?? 0) / 1000),
    spread(
      ratios(
        drop.map(({ wholeMs }) => wholeMs),
        keep.map(({ wholeMs }) => wholeMs),
      ),
    ),
    mib(median(drop.map(({ cacheDrop }) => cacheDrop?.freeBeforeBytes ?? 0))),
    mib(median(drop.map(({ cacheDrop }) => cacheDrop?.freeAfterBytes ?? 0))),
  ]);
  return table(head, rows);
}

/** What is saved on the wire takes as long as the drop. */
function breakEven(found: Record<string, Samples<FreeMove>>): string {
  const all = (way: "keep" | "drop", pick: (one: FreeMove) => number) =>
    median(Object.values(found).flatMap((samples) => samples[way].map(pick)));
  const savedBytes = all("keep", ({ bytes }) => bytes) - all("drop", ({ bytes }) => bytes);
  const dropMs = all("drop", ({ cacheDrop }) => cacheDrop?.elapsedMs ?? 0);
  const inflatedPages = all("drop", ({ cacheDrop }) => cacheDrop?.inflatedBytes ?? 0) / PAGE_BYTES;
  const us = (dropMs * 1000) / inflatedPages;
  return `The drop took ${(dropMs / 1000).toFixed(2)} s for ${count(inflatedPages)} pages into the balloon and out of it, ${us.toFixed(1)} µs each, and left
${mib(savedBytes)} MiB to be sent less: it pays where less than **${mib((savedBytes * 1000) / dropMs, 1)} MiB/s** are carried. For each
page of cache here ${(inflatedPages / (savedBytes / RECORD_BYTES)).toFixed(1)} pages go through the balloon, the free ones before it; at 1 µs for each the same drop would pay below
${mib((savedBytes * 1e6) / inflatedPages)} MiB/s.`;
}

// --- what it costs the guest

const asks = (): Promise<Samples<Asked>> =>
  contest(
    "asked",
    Object.fromEntries(Object.entries(TOUCHED).map(([name, guest]) => [name, () => askFree(guest)])),
    ASKS,
  );

function askTable(found: Samples<Asked>): string {
  const head = [
    "",
    "named pages",
    "until the bulk pass, ms",
    "of these waited, ms",
    "lost, ms",
    "longest stall, ms",
    "stall alone, ms",
    "pages/ms alone",
  ];
  const rows = Object.entries(found).map(([name, of]) => [
    name,
    count(median(of.map(({ namedPages }) => namedPages))),
    column(of, 0, ({ untilMs }) => untilMs),
    column(of, 0, ({ waitedMs }) => waitedMs),
    column(of, 1, ({ lostMs }) => lostMs),
    column(of, 1, ({ stallMs }) => stallMs),
    column(of, 1, ({ aloneStallMs }) => aloneStallMs),
    column(of, 1, ({ alonePerMs }) => alonePerMs),
  ]);
  return table(head, rows);
}

// ---

interface Found {
  moves: Record<string, Samples<FreeMove>>;
  saves: Record<string, Samples<FreeSave>>;
  slow: Samples<FreeMove>;
  cache: Record<string, Samples<FreeMove>>;
}

function aims({ moves, saves, slow, cache }: Found): string[][] {
  const bytes = (name: string, of: FreeMove[]) => {
    const found = median(of.map((one) => one.bytes)) / usedBytes(KINDS[name]);
    return [`${name}, hints: bytes ÷ used`, `≤ ${AIM.bytes}`, found.toFixed(4), verdict(found <= AIM.bytes)];
  };
  const ms = (what: string, found: number) => [
    `a guest that never answers: ${what}`,
    `< ${AIM.delayMs} ms`,
    found.toFixed(0),
    verdict(found < AIM.delayMs),
  ];
  const added = delaysOf(slow, SILENT);
  // Whatever was found wrong would have ended all of this.
  const runs = (of: Record<string, Samples<object>>) =>
    Object.values(of).reduce((sum, one) => sum + Object.values(one).reduce((n, { length }) => n + length, 0), 0);
  const good = (what: string, n: number) => [what, `${n} of ${n}`, `${n} of ${n}`, verdict(true)];
  return [
    ...Object.keys(TOUCHED).map((name) => bytes(name, moves[name].hints)),
    ms("time added, median", median(added)),
    ms("time added, most", Math.max(...added)),
    ms("waited, most", Math.max(...waitsOf(slow, SILENT))),
    good("moved, every page checked at the target", runs({ ...moves, slow, ...cache })),
    good("saved, verified, restored, every page checked", runs(saves)),
  ];
}

function whyNot(): string | null {
  const needsGib = (2 * MEMORY_MIB) / 1024 + 1;
  const noRoom = availableMemoryGib() < needsGib ? `less than ${needsGib} GiB of memory are free` : null;
  const noDisk = freeGib(BUILD) < MEMORY_MIB / 1024 + 1 ? `${BUILD}: less room than a guest needs` : null;
  return whyNoKvm() ?? noRoom ?? noDisk;
}

function hostText(perMs: number): string {
  const pace = `A walker with nothing else to do writes ${perMs.toFixed(1)} pages a millisecond here`;
  if (perMs >= EMULATED_PER_MS) return `${pace}.`;
  return `**This host runs guests in KVM's instruction emulator.** ${pace},
${(1000 / perMs).toFixed(0)} µs each, where a CPU that runs guests itself takes a fraction of one. So what the guest's driver does, naming runs of free
pages, and above all listing pages for its balloon one by one, takes far longer here than elsewhere, and holds one of the host's cores
meanwhile: such times below are the most that is to be expected. Bytes and pages do not depend on it, and to send and to receive pages
is the host's own work.`;
}

async function main(): Promise<void> {
  const folder = scratchFolder(join(BUILD, "bench"));
  const host = await environment(null, [["disk", await diskOf(folder)]]);
  const perMs = await bounded("the host's pace", paceOfHost);
  print({ section: "host", perMs });
  const moveOnce = (way: Way) => (guest: GuestOptions) => moveFree(guest, way);
  const ways = Object.fromEntries(Object.entries(WAYS).map(([name, way]) => [name, moveOnce(way)]));
  const moves = await ofKinds("moves", KINDS, ways, MOVES);
  const file = join(folder, "free.tram");
  const saves = await ofKinds(
    "saves",
    TOUCHED,
    { "no hints": (guest) => saveFree(guest, file, false), hints: (guest) => saveFree(guest, file, true) },
    SAVES,
  );
  const slow = await delays();
  const cache = await drops();
  const asked = await asks();

  const text = `# Results of \`make bench\`: guests with free memory

A walker of ${MEMORY_MIB} MiB that writes ten pages a second, where nothing else is said, with so much of its memory **free**: written to
once, filled with random bytes as all else is, and of no use since. Figures are the median, with the least and the most in brackets;
contestants take turns, and ratios are taken within each round. Every guest's memory is checked behind its move, page by page
(\`tram check-guest\`).

**used**: pages that have content and are not free, by the guest's layout: its RAM, less what is free, less its own first 2 MiB and the
table of its free pages (4 bytes each), of which only some dozens of pages are not zero. In bytes of a stream each is ${RECORD_BYTES}: 8 are its
header. *not zero afterwards* is what the target's check finds; where free pages were left out, that is what is used, found otherwise.

${hostText(perMs)}

${host}

## Aims

${table(["", "aim", "found", ""], aims({ moves, saves, slow, cache }))}

## Moves

Over tcp: on one host, plain, over the main channel, the target's memory touched before. **move**: from when it was asked for, until
the target has confirmed, asking the guest included. **bulk pass**: the first round alone. **CPU**: user and system time of both
processes, the guest's included. QEMU, whose hints need a guest with a Linux driver, is not measured here.

- **neither**: every page is read (\`TRAM_LOOK_AT_ALL=1\`, \`--no-skip-free\`).
- **untouched-skip**: pages for which the page tables have nothing are not (\`--no-skip-free\`).
- **hints**: nor are those that the guest names, asked just before the bulk pass. That is how tram moves a guest that answers.
- **never touched**: the free memory has not been written to; all else is the working set, a record in each page.

${moveTable(moves)}

÷ neither, in the same round; by **used ÷ RAM** would a move be shortened that had nothing else to do than to send:

${limitTable(moves)}

Pages, medians. What is zero is looked at, and sent without content; what is hinted at or untouched is neither.

${pageTable(moves, "sent")}

## Saves

\`tram save\` of a running guest with its defaults, then \`tram verify\`, \`tram restore --eager\` and \`tram check-guest\`. **÷ used**: allocated
bytes, of pages alone (${PAGE_BYTES}); the file has hashes and bitmaps, too, about 2 MiB for each GiB of RAM.

${saveTable(saves)}

${pageTable(saves, "written")}

## Guests that are slow to answer

${DELAY_GUEST.memoryMib} MiB, half free, 1000 pages written a second; ${Object.values(slow)[0].length} rounds. **added**: a move whose guest is asked, less the one before it whose guest is not;
less than nothing where much was left out. **waited**: by the report, \`hints.waitedMs\`. **late**: says at once that it answers, names the
first pages 160 ms later, and 4 MiB each 20 ms from then on, of which it uses some again; the bulk pass has begun by then, and leaves
out what it has not come to. Under a \`--max-bandwidth\` the pass may make up for up to 100 ms of waiting.

${delayTable(slow)}

## The page cache

\`--page-cache drop\`: a walker of ${DROP_MIB} MiB, a quarter free, a quarter page cache, half used, gives up what is free and cached to its
balloon, but for a tenth and at least 16 MiB, and takes it back before it moves. **keep**: what is free is left out, the cache is sent.
Seconds are those of the whole move, the drop included; ${Object.values(cache)[0].keep.length} rounds.

${dropTable(cache)}

${breakEven(cache)}

## What the guest has of it

The same walkers, but writing all they can, looked at each millisecond from when the move was asked for until the bulk pass begins:
connecting, tracking their writes, and what they answer. **lost**: that time, less what the pages that they wrote then take them alone.
A walker looks at its devices behind every 1024 pages, which is for the most part what is waited for.

${askTable(asked)}
`;
  await Bun.write(RESULTS, text);
}

mkdirSync(join(BUILD, "bench"), { recursive: true });
const why = whyNot();
if (why) print({ section: "free", skipped: why });
else await main();
