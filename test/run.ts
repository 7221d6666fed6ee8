// Runs all tests in their order and closes with one line: N passed, N failed, N skipped.
import { resolve } from "node:path";
import { whyNoKvm } from "./support/bed.ts";

const SUITES: [folder: string, timeoutMs: number][] = [
  ["test/unit", 20_000],
  ["test/contract", 20_000],
  ["test/fuzz", 90_000],
  ["test/smoke", 60_000],
  ["test/qemu", 60_000],
  ["test/kvm", 60_000],
];

const totals = { passed: 0, failed: 0, skipped: 0 };
/** What tests that failed have written, to be read at the end: of each the last lines. */
const failures: string[] = [];
const FAILURE_LINES = 60;

/** Of a report in which each test's errors come before its own line. */
function failuresIn(report: string): string[] {
  const [body] = report.split(/^\d+ tests? failed:$/m);
  const found: string[] = [];
  let lines: string[] = [];
  for (const line of body.split("\n")) {
    lines.push(line);
    if (line.startsWith("(fail) ")) found.push(lines.slice(-FAILURE_LINES).join("\n"));
    if (/^\((fail|pass|skip)\) /.test(line)) lines = [];
  }
  return found;
}

let broken = false;

for (const [folder, timeoutMs] of SUITES) {
  const child = Bun.spawn([process.execPath, "test", "--timeout", String(timeoutMs), `./${folder}`], {
    cwd: resolve(import.meta.dir, ".."),
    stdout: "inherit",
    stderr: "pipe", // where bun writes its report
    stdin: "ignore",
  });
  let report = "";
  for await (const piece of child.stderr) {
    const text = new TextDecoder().decode(piece);
    report += text;
    process.stderr.write(text);
  }
  const code = await child.exited;
  const count = (word: string) => Number(new RegExp(`^ *(\\d+) ${word}$`, "m").exec(report)?.[1] ?? 0);
  totals.passed += count("pass");
  totals.failed += count("fail");
  totals.skipped += count("skip");
  failures.push(...failuresIn(report));
  // A suite that found nothing to run, or died, has not passed.
  if (code !== 0 || count("pass") + count("skip") === 0) broken = true;
}

const reason = whyNoKvm();
if (reason) process.stdout.write(`real guests were skipped: ${reason}\n`);
if (broken && totals.failed === 0) totals.failed = 1;
if (failures.length) process.stdout.write(`\nwhat has failed:\n${failures.join("\n")}\n`);
process.stdout.write(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped\n`);
process.exit(broken ? 1 : 0);
