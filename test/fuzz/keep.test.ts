// Damaged captures: cut at every record and at random places, and with flipped bytes. Each is kept, or is an error with a code
// and a place; nothing hangs, nothing stays behind, and memory does not grow. TRAM_FUZZ_SEED makes other damages.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Subprocess } from "bun";
import type { FuzzPlan, FuzzResult } from "../support/keep-fuzzer.ts";

const SEED = Number(process.env.TRAM_FUZZ_SEED ?? 1);
/** One for each core that the smallest machine has. */
const PARTS = 2;
/** A file of the capture is 600 ms of cases; none takes longer than this. */
const HANG_MS = 15_000;

let folder: string;
let children: Subprocess<"ignore", "pipe", "pipe">[];
beforeEach(() => {
  // Pages go to files again and again: to memory, where there is such a place.
  folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "tram-fuzz-"));
  children = [];
});
afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(children.map((child) => child.exited));
  rmSync(folder, { recursive: true });
});

async function fuzz(part: number): Promise<FuzzResult> {
  const plan: FuzzPlan = {
    folder: mkdtempSync(join(folder, "part-")),
    seed: SEED,
    part,
    parts: PARTS,
    flips: 1000,
    cuts: 200,
  };
  const child = Bun.spawn(
    [process.execPath, resolve(import.meta.dir, "../support/keep-fuzzer.ts"), JSON.stringify(plan)],
    { stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  );
  children.push(child);
  const current = join(plan.folder, `case-${part}`);
  const caseNow = () => (existsSync(current) ? readFileSync(current, "utf8").trim() : "before the first case");
  let hung = false;
  const watch = setInterval(() => {
    if (!existsSync(current) || Date.now() - statSync(current).mtimeMs < HANG_MS) return;
    hung = true;
    child.kill("SIGKILL");
  }, 500);
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  await child.exited;
  clearInterval(watch);
  if (hung) throw new Error(`hangs: ${caseNow()}`);
  if (child.exitCode !== 0)
    throw new Error(`ended with ${child.exitCode ?? child.signalCode} at ${caseNow()}\n${stderr}`);
  return JSON.parse(stdout) as FuzzResult;
}

describe("a damaged capture", () => {
  test(`is kept or is an error with a code and a place, seed ${SEED}`, async () => {
    const results = await Promise.all(Array.from({ length: PARTS }, (_, part) => fuzz(part)));
    expect(results.flatMap(({ failures }) => failures)).toEqual([]);
    const sum = (outcome: string) => results.reduce((total, { outcomes }) => total + (outcomes[outcome] ?? 0), 0);
    // The premise: damages of every kind were there, and many were noticed.
    expect(results.reduce((total, { cases }) => total + cases, 0)).toBeGreaterThan(22 * 1200);
    for (const outcome of ["kept", "E_STREAM", "E_STREAM_TRUNCATED", "E_CHANNEL_CLOSED"])
      expect(sum(outcome)).toBeGreaterThan(300);
    for (const { peakRss, normalRss } of results) expect(peakRss).toBeLessThan(2 * normalRss);
  });
});
