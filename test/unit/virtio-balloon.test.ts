// The balloon, told by a driver that keeps to the rules, that answers late, with a stale number, or nonsense.
import { describe, expect, test } from "bun:test";
import { BALLOON_WORDS, Balloon, HINT, HINTING } from "../../src/machine/virtio/balloon.ts";
import { DriverError } from "../../src/machine/virtio/memory.ts";
import { FEATURE } from "../../src/machine/virtio/mmio.ts";
import type { PageRange } from "../../src/memory/bitmap.ts";
import type { State } from "../../src/stream/vmstate.ts";
import { BalloonRig, OWN_FEATURES, QUEUE, RAM_PAGES } from "../support/balloon-rig.ts";
import { DESCRIPTORS, type Descriptor, Driver, FLAG, HIGH_GPA, RAM_BYTES } from "../support/virtio-driver.ts";

const { inflate: INFLATE, deflate: DEFLATE, stats: STATS, hint: FREE, report: REPORT } = QUEUE;
const DATA = 0x8000;
const PAGE = 4096;
const HALF_PAGES = RAM_PAGES / 2;

function balloon() {
  const driver = new Driver(64);
  const words = new Int32Array(new SharedArrayBuffer(4 * BALLOON_WORDS));
  const seen = {
    inflated: [] as PageRange[],
    deflated: [] as PageRange[],
    reported: [] as PageRange[],
    hints: [] as PageRange[],
  };
  const device = new Balloon(words, driver.memory, {
    pages: RAM_PAGES,
    inflated: (ranges) => void seen.inflated.push(...ranges),
    deflated: (ranges) => void seen.deflated.push(...ranges),
    reported: (ranges) => void seen.reported.push(...ranges),
    hinted: (ranges) => void seen.hints.push(...ranges),
  });
  device.reset();
  seen.deflated.length = 0;
  const tell = (queue: number, ...rows: Descriptor[]) => {
    driver.describe(DESCRIPTORS, rows);
    driver.offer(0);
    return device.serve(driver.queue, queue);
  };
  const list = (...pages: number[]): Descriptor => {
    for (const [i, page] of pages.entries()) driver.view.setUint32(DATA + 4 * i, page, true);
    return [DATA, 4 * pages.length];
  };
  /** The driver's answer with this number. */
  const answer = (command: number) => {
    driver.view.setUint32(DATA, command, true);
    tell(FREE, [DATA, 4]);
  };
  const free = (gpa: number, bytes: number) => tell(FREE, [gpa, bytes, FLAG.write]);
  /** The number that the device asks with now. */
  const command = () => device.readConfig(8, 4);
  const ask = () => {
    device.askForHints();
    return command();
  };
  return { driver, device, words, seen, tell, list, answer, free, ask, command };
}

describe("a balloon", () => {
  test("is inflated and deflated by lists of pages, above the hole, too: neighbours as one range", () => {
    const { driver, seen, tell, list } = balloon();
    const high = HIGH_GPA / PAGE + 5;
    const ranges = [
      { first: 3, pages: 1 },
      { first: 98, pages: 3 },
      { first: HALF_PAGES + 5, pages: 1 },
    ];
    tell(INFLATE, list(100, 3, high, 99, 98, 99));
    expect([seen.inflated, seen.deflated]).toEqual([ranges, []]);
    tell(DEFLATE, list(3, 98, 99, 100, high));
    expect([seen.inflated, seen.deflated]).toEqual([ranges, ranges]);
    expect(driver.usedIndex).toBe(2);
  });

  test.each([
    ["in the hole", RAM_BYTES / 2 / PAGE],
    ["behind the end", (HIGH_GPA + RAM_BYTES / 2) / PAGE],
    ["of all ones", 0xffffffff],
  ])("is stopped by a page %s", (_, page) => {
    for (const queue of [INFLATE, DEFLATE]) {
      const { seen, tell, list } = balloon();
      expect(() => tell(queue, list(3, page))).toThrow(DriverError);
      expect([seen.inflated, seen.deflated]).toEqual([[], []]);
    }
  });

  test("has nothing in it when a driver comes, or goes", () => {
    const { device, seen, tell, list } = balloon();
    tell(INFLATE, list(3, 4));
    device.reset();
    expect(seen.deflated).toEqual([{ first: 0, pages: RAM_PAGES }]);
  });

  test("takes a list of 1024 pages, in any number of parts, and is stopped by a longer one", () => {
    const parts = (...bytes: number[]) => {
      const { driver, seen, tell } = balloon();
      driver.view.setUint32(DATA, 7, true);
      let gpa = DATA;
      const rows = bytes.map((count, i): Descriptor => {
        gpa += count;
        return [gpa - count, count, i < bytes.length - 1 ? FLAG.next : 0, i + 1];
      });
      tell(INFLATE, ...rows);
      return seen.inflated;
    };
    const some = [
      { first: 0, pages: 1 },
      { first: 7, pages: 1 },
    ];
    expect(parts(PAGE)).toEqual(some);
    expect(parts(...Array(16).fill(PAGE / 16))).toEqual(some);
    expect(parts(3, 5)).toEqual(some); // in the middle of a number, too
    expect(() => parts(PAGE + 4)).toThrow(DriverError);
    expect(() => parts(...Array(16).fill(PAGE / 16), 1)).toThrow(DriverError);
  });

  test("tells what the guest is to give up, and is told what it has", () => {
    const { device } = balloon();
    device.wantedPages = 0x01020304;
    expect([device.readConfig(0, 4), device.readConfig(0, 1), device.readConfig(2, 2)]).toEqual([
      0x01020304, 4, 0x0102,
    ]);
    device.writeConfig(4, 4, 77);
    device.writeConfig(0, 4, 99);
    device.writeConfig(4, 1, 1);
    expect([device.readConfig(4, 4), device.readConfig(0, 4), device.readConfig(16, 4)]).toEqual([77, 0x01020304, 0]);
    expect(device.actualPages).toBe(77);
    device.writeConfig(4, 4, -1);
    device.wantedPages = 0xffff_fffe;
    expect([device.actualPages, device.wantedPages, device.readConfig(0, 4)]).toEqual([
      0xffff_ffff, 0xffff_fffe, 0xffff_fffe,
    ]);
    device.reset();
    expect([device.actualPages, device.wantedPages]).toEqual([0, 0xffff_fffe]);
  });

  test("hears what is reported, whole pages of it", () => {
    const { seen, tell } = balloon();
    tell(REPORT, [0x10000, 2 * PAGE, FLAG.write | FLAG.next, 1], [0x20800, 2 * PAGE, FLAG.write]);
    expect(seen.reported).toEqual([
      { first: 0x10, pages: 2 },
      { first: 0x21, pages: 1 },
    ]);
    tell(REPORT, [0x30001, PAGE, FLAG.write]);
    tell(REPORT, [0x30000, PAGE]); // to be read: that says nothing of it
    expect(seen.reported).toHaveLength(2);
  });

  describe("statistics", () => {
    const put = (driver: Driver, ...entries: [tag: number, value: bigint][]): number => {
      for (const [i, [tag, value]] of entries.entries()) {
        driver.view.setUint16(DATA + 10 * i, tag, true);
        driver.view.setBigUint64(DATA + 10 * i + 2, value, true);
      }
      return 10 * entries.length;
    };

    test("are known by their names; tags that are not, and half an entry, are passed over", () => {
      const { driver, device, tell } = balloon();
      expect([device.stats, device.statsTold]).toEqual([{}, 0]);
      const bytes = put(driver, [4, 5n], [77, 1n], [15, 9n], [16, 9n], [6, 1n << 33n], [5, 2n ** 53n - 1n], [7, 7n]);
      tell(STATS, [DATA, bytes - 1]);
      expect(device.stats).toEqual({ freeBytes: 5, availableBytes: 2 ** 33, totalBytes: 2 ** 53 - 1 });
      expect([device.statsTold, driver.usedIndex]).toEqual([1, 0]); // the buffer is kept
    });

    test.each([0, 1, 9])("of %d bytes say nothing", (bytes) => {
      const { driver, device, tell } = balloon();
      put(driver, [4, 5n]);
      tell(STATS, [DATA, bytes]);
      expect([device.stats, device.statsTold]).toEqual([{}, 1]);
    });

    test("are read no further than a page, in any number of parts", () => {
      const { driver, device, tell } = balloon();
      put(driver, [4, 5n]);
      driver.view.setUint16(0x20000, 5, true);
      tell(STATS, [DATA, 10, FLAG.next, 1], [0x30000, PAGE - 10, FLAG.next, 2], [0x20000, 10]);
      expect(device.stats).toEqual({ freeBytes: 5, swappedInBytes: 0 }); // zeros are entries, too
    });

    test("keep what was said before, until the driver is another", () => {
      const { driver, device, tell } = balloon();
      tell(STATS, [DATA, put(driver, [4, 5n], [6, 6n])]);
      device.wantStats();
      device.serve(driver.queue, STATS);
      tell(STATS, [DATA, put(driver, [4, 8n])]);
      expect([device.stats, device.statsTold]).toEqual([{ freeBytes: 8, availableBytes: 6 }, 2]);
      device.reset();
      expect(device.stats).toEqual({});
    });

    test("are asked for by giving back the buffer, once", () => {
      const { driver, device, tell } = balloon();
      tell(STATS, [DATA, put(driver, [4, 1n])]);
      expect([device.statsTold, driver.usedIndex]).toEqual([1, 0]);
      for (let i = 0; i < 3; i++) device.serve(driver.queue, STATS);
      expect(driver.usedIndex).toBe(0); // nobody wants any
      device.wantStats();
      for (let i = 0; i < 3; i++) device.serve(driver.queue, STATS);
      expect([driver.usedIndex, device.statsTold, driver.used(0)]).toEqual([1, 1, [0, 0]]);
      tell(STATS, [DATA, put(driver, [4, 2n])]);
      expect([driver.usedIndex, device.statsTold, device.stats.freeBytes]).toEqual([1, 2, 2]);
    });

    test("that lay there before anybody asked are no answer", () => {
      const { driver, device, tell } = balloon();
      device.wantStats();
      tell(STATS, [DATA, put(driver, [4, 1n])]);
      expect([device.statsTold, driver.usedIndex]).toEqual([0, 1]); // at once back for newer ones
      tell(STATS, [DATA, put(driver, [4, 2n])]);
      expect([device.statsTold, driver.usedIndex, device.stats.freeBytes]).toEqual([1, 1, 2]);
    });

    test("wait for a buffer where the driver has offered none", () => {
      const { driver, device, tell } = balloon();
      device.wantStats();
      device.serve(driver.queue, STATS);
      expect(driver.usedIndex).toBe(0);
      tell(STATS, [DATA, put(driver, [4, 1n])]);
      expect(driver.usedIndex).toBe(1);
    });

    test.each([false, true])("are each time the newest, told as the ring asks for it: event index %p", (eventIndex) => {
      const rig = new BalloonRig();
      rig.boot(eventIndex ? OWN_FEATURES | FEATURE.eventIndex : OWN_FEATURES);
      let newest = 0;
      let offered = 0;
      const offer = () => {
        rig.view.setUint16(DATA, 6, true);
        rig.view.setBigUint64(DATA + 2, BigInt(++newest), true);
        rig.offer(STATS, 0, [DATA, 10]);
        if (!eventIndex || rig.asksFor(STATS) === offered) rig.notify(STATS);
        offered++;
      };
      const rounds = (count: number) => {
        for (let i = 0; i < count && rig.registers.isPending; i++) rig.registers.serve();
        expect(rig.registers.isPending).toBe(false);
      };
      // As Linux does: the first buffer is told of before the device listens.
      rig.offer(STATS, 0, [DATA, 10]);
      offered++;
      for (let i = 1; i < 6; i++) {
        const told = rig.balloon.statsTold;
        rig.balloon.wantStats();
        rig.registers.want(STATS);
        rounds(3);
        expect([rig.returned(STATS), rig.balloon.statsTold]).toEqual([i, told]); // the driver has not had its turn
        offer();
        rounds(3);
        expect([rig.balloon.statsTold, rig.balloon.stats.availableBytes]).toEqual([told + 1, newest]);
      }
    });
  });

  describe("hints", () => {
    test("are taken between the request's number and the end", () => {
      const { device, driver, seen, answer, free, ask } = balloon();
      free(0x10000, PAGE); // nobody has asked
      expect(device.hinting).toBe(HINTING.none);
      const command = ask();
      expect(device.hinting).toBe(HINTING.asked);
      free(0x11000, PAGE); // nor has it answered
      answer(command);
      expect(device.hinting).toBe(HINTING.answering);
      free(0x20000, 16 * PAGE);
      free(HIGH_GPA, 2 * PAGE);
      expect(device.hintedPages).toBe(18);
      answer(HINT.stop);
      expect(device.hinting).toBe(HINTING.ended);
      free(0x12000, PAGE);
      expect(seen.hints).toEqual([
        { first: 0x20, pages: 16 },
        { first: HALF_PAGES, pages: 2 },
      ]);
      expect([device.hintedPages, driver.usedIndex]).toEqual([18, 7]);
    });

    test("with an older number are for nobody", () => {
      const { device, seen, answer, free, ask } = balloon();
      const first = ask();
      answer(first);
      const second = ask(); // a new round: what comes for the old one is late
      expect(second).not.toBe(first);
      free(0x20000, PAGE);
      answer(first);
      free(0x21000, PAGE);
      answer(HINT.stop);
      expect([seen.hints, device.hinting, device.hintedPages]).toEqual([[], HINTING.asked, 0]);
      answer(second);
      free(0x22000, PAGE);
      expect(seen.hints).toEqual([{ first: 0x22, pages: 1 }]);
    });

    test("are over when an older number comes between, until the newest does", () => {
      const { seen, answer, free, ask } = balloon();
      const command = ask();
      const newest = ask();
      answer(newest);
      answer(command);
      free(0x20000, PAGE);
      answer(newest);
      free(0x21000, PAGE);
      expect(seen.hints).toEqual([{ first: 0x21, pages: 1 }]);
    });

    test("are over when we say so, whatever the driver goes on with", () => {
      const { device, driver, seen, answer, free, ask, command } = balloon();
      const asked = ask();
      answer(asked);
      free(0x20000, PAGE);
      device.endHints();
      expect([command(), device.hinting]).toEqual([HINT.done, HINTING.none]);
      for (const said of [asked, HINT.done, HINT.stop, asked]) {
        answer(said);
        free(0x21000, PAGE);
      }
      expect([seen.hints.length, device.hintedPages, device.hinting]).toEqual([1, 1, HINTING.none]);
      expect(driver.usedIndex).toBe(10); // it has all of its buffers
    });

    test("have a number of their own each time, from 2 on, and again behind the last", () => {
      const { device, seen, answer, free, ask, command } = balloon();
      expect([ask(), ask()]).toEqual([HINT.first, HINT.first + 1]);
      device.endHints();
      expect(ask()).toBe(HINT.first + 2);
      device.load({ ...device.save(), hint_last: 0xffff_fffe });
      expect(ask()).toBe(0xffff_ffff);
      answer(0xffff_ffff);
      free(0x20000, PAGE);
      expect(seen.hints).toHaveLength(1);
      expect([ask(), ask()]).toEqual([HINT.first, HINT.first + 1]);
      answer(0xffff_ffff);
      free(0x21000, PAGE);
      expect(seen.hints).toHaveLength(1);
      for (const last of [0, 1]) {
        device.load({ ...device.save(), hint_last: last });
        expect([ask(), command()]).toEqual([HINT.first, HINT.first]);
      }
    });

    test("count from each request anew", () => {
      const { device, answer, free, ask } = balloon();
      for (const pages of [3, 5]) {
        answer(ask());
        free(0x20000, pages * PAGE);
        expect(device.hintedPages).toBe(pages);
      }
    });

    test("of a driver that was reset are over until it answers again", () => {
      const { device, seen, answer, free, ask } = balloon();
      const asked = ask();
      answer(asked);
      device.reset();
      free(0x20000, PAGE);
      expect(seen.hints).toEqual([]);
      answer(asked);
      free(0x20000, PAGE);
      expect(seen.hints).toHaveLength(1);
    });

    test.each<[string, Descriptor]>([
      ["outside its memory", [RAM_BYTES, PAGE, FLAG.write]],
      ["across its end", [RAM_BYTES / 2 - PAGE, 2 * PAGE, FLAG.write]],
      ["of all addresses", [0, 0xffffffff, FLAG.write]],
    ])("%s stop the device", (_, row) => {
      const { seen, answer, ask, tell } = balloon();
      answer(ask());
      expect(() => tell(FREE, row)).toThrow(DriverError);
      expect(seen.hints).toEqual([]);
    });

    test("of half a page, or a number of two bytes, are nothing", () => {
      const { seen, answer, free, ask, tell } = balloon();
      const asked = ask();
      tell(FREE, [DATA, 2]);
      free(0x20000, PAGE);
      answer(asked);
      free(0x20800, PAGE);
      expect(seen.hints).toEqual([]);
    });
  });
});

describe("a balloon's work at a time", () => {
  const HALF: Descriptor = [0, RAM_BYTES / 2, FLAG.write];

  function booted(): BalloonRig {
    const rig = new BalloonRig();
    rig.boot();
    return rig;
  }

  test("ends when it was about more pages than there are; the rest is done by the next", () => {
    const rig = booted();
    for (let i = 0; i < 8; i++) rig.offer(REPORT, i, HALF);
    rig.notify(REPORT);
    const steps = [[rig.returned(REPORT), rig.registers.isPending]];
    while (rig.registers.isPending) {
      rig.registers.serve();
      steps.push([rig.returned(REPORT), rig.registers.isPending]);
    }
    expect(steps).toEqual([[3, true], [6, true], [8, false]]); // biome-ignore format: one line
    expect(rig.told).toHaveLength(8);
  });

  test("ends when it was about as many pieces as may cost a system call each", () => {
    const rig = booted();
    for (let i = 0; i < HALF_PAGES / 2; i++) rig.view.setUint32(DATA + 4 * i, 2 * i, true);
    const steps: unknown[] = [];
    for (let i = 0; i < 9; i++) rig.offer(INFLATE, i, [DATA, 2 * HALF_PAGES]); // 64 pieces each
    rig.notify(INFLATE);
    for (steps.push(rig.returned(INFLATE)); rig.registers.isPending; steps.push(rig.returned(INFLATE)))
      rig.registers.serve();
    expect(steps).toEqual([4, 8, 9]);
    expect(rig.told.every(([, ranges]) => ranges.length === HALF_PAGES / 2)).toBe(true);
  });

  test("ends behind as many requests as its queue has by rights, however many there are", () => {
    const rig = booted();
    const state = rig.registers.save();
    (state.queues as State[])[FREE].size = 512;
    (state.queues as State[])[FREE].descriptors = 0x10000n;
    (state.queues as State[])[FREE].available = 0x14000n;
    (state.queues as State[])[FREE].used = 0x15000n;
    rig.registers.load(state);
    rig.registers.serve();
    rig.view.setUint32(0x10000 + 8, 0, true);
    rig.view.setUint16(0x14002, 300, true); // all of descriptor 0, which says nothing
    rig.notify(FREE);
    const returned = () => rig.view.getUint16(0x15002, true);
    const steps = [[returned(), rig.registers.isPending]];
    while (rig.registers.isPending) {
      rig.registers.serve();
      steps.push([returned(), rig.registers.isPending]);
    }
    expect(steps).toEqual([[128, true], [256, true], [300, false]]); // biome-ignore format: one line
  });

  test("of a whole queue is followed by one more look, which finds nothing", () => {
    const rig = booted();
    for (let i = 0; i < 32; i++) rig.offer(REPORT, i, [PAGE * (16 + i), PAGE, FLAG.write]);
    rig.notify(REPORT);
    expect([rig.returned(REPORT), rig.registers.isPending]).toEqual([32, true]);
    rig.registers.serve();
    expect([rig.returned(REPORT), rig.registers.isPending, rig.told.length]).toEqual([32, false, 32]);
  });

  test("is refused where one request names more pages than there are", () => {
    const rig = booted();
    const all = [HALF, [HIGH_GPA, RAM_BYTES / 2, FLAG.write] as Descriptor];
    rig.tell(REPORT, ...all);
    expect([rig.needsReset, rig.told]).toEqual([
      false,
      [["reported", [{ first: 0, pages: HALF_PAGES }, { first: HALF_PAGES, pages: HALF_PAGES }]]], // biome-ignore format: one line
    ]);
    rig.tell(REPORT, ...all, [0, PAGE, FLAG.write]);
    expect([rig.needsReset, rig.told.length]).toEqual([true, 1]);
  });

  test("is none at all behind a driver's error, in any queue, until that resets the device", () => {
    const rig = booted();
    rig.tell(REPORT, [RAM_BYTES, PAGE, FLAG.write]);
    expect([rig.needsReset, rig.line]).toEqual([true, true]);
    rig.tell(FREE, [0x40000, PAGE, FLAG.write]);
    rig.tell(INFLATE, [DATA, 4]);
    rig.balloon.wantStats();
    rig.registers.want(STATS);
    rig.registers.serve();
    expect([rig.told, rig.returned(FREE), rig.returned(INFLATE)]).toEqual([[], 0, 0]);
    rig.boot();
    expect([rig.needsReset, rig.line]).toEqual([false, false]);
    rig.tell(REPORT, [0x40000, PAGE, FLAG.write]);
    expect(rig.told).toEqual([["reported", [{ first: 0x40, pages: 1 }]]]);
  });
});
