// What is wrong with a stream or file, as far as it can be seen without its pages: behind tram check, verify and seal.
import { existsSync } from "node:fs";
import { type ErrorData, TramError, toErrorData } from "../errors.ts";
import { MappedFile } from "../reader/mapped.ts";
import { besidePath } from "../reader/seal.ts";
import { type InputSpec, openInput, type StreamInput } from "./source.ts";
import { type Survey, survey } from "./survey.ts";

export type Sealed = boolean | "beside";

export interface Examined {
  /** null: it could not be opened, or is nothing that can be looked at. */
  input: StreamInput | null;
  found: Survey | null;
  /** With fixed offsets, and read to the end of its stream. */
  file: MappedFile | null;
  /** Whether a seal says what its bytes were: at its own end, damaged or not, or in a file beside it. Nothing is compared here. */
  sealed: Sealed;
  problems: ErrorData[];
  /** What is not wrong in itself, and would bring back another guest than was saved. */
  notes: string[];
}

export function examine(spec: InputSpec): Examined {
  const problems: ErrorData[] = [];
  const input = attempt(problems, () => openInput(spec));
  const seen = input ? examineInput(input) : { ...unseen(null), problems };
  if (!seen.sealed && spec.path !== null && existsSync(besidePath(spec.path))) seen.sealed = "beside";
  return seen;
}

const unseen = (input: StreamInput | null): Examined => ({
  input,
  found: null,
  file: null,
  sealed: false,
  problems: [],
  notes: [],
});

export function examineInput(input: StreamInput): Examined {
  const seen = unseen(input);
  const { problems, notes } = seen;
  input.file?.seek(input.offset);
  const found = attempt(problems, () => {
    if (input.kind === "main") return survey(input.transport, input.offset, null);
    throw new TramError("E_STREAM", "this is a capture of one multifd channel: it has no machine and no devices");
  });
  seen.found = found;
  if (found?.problem) problems.push(found.problem);
  else if (found) seen.file = attempt(problems, () => openMapped(input, found));
  if (input.sealProblem) problems.push(input.sealProblem);
  if (found) look(found, problems, notes);
  const throughPipe = !input.file && found?.seal;
  seen.sealed = Boolean(input.seal || input.sealProblem || throughPipe);
  return seen;
}

/** Of a seal that is damaged the head may still say where the stream ends. */
function openMapped({ file, offset, seal, sealProblem }: StreamInput, found: Survey): MappedFile | null {
  if (!file || found.kind !== "fixed") return null;
  if (sealProblem && found.seal) file.endAt(found.seal.streamEnd);
  return new MappedFile(file, offset, seal);
}

export function attempt<T>(problems: ErrorData[], action: () => T): T | null {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof TramError)) throw error;
    problems.push(toErrorData(error));
    return null;
  }
}

function look(found: Survey, problems: ErrorData[], notes: string[]): void {
  const { blocks, kind, multifd, tail } = found;
  if (multifd)
    problems.push(
      toErrorData(
        new TramError("E_STREAM", "the stream's RAM went over other channels: this file has none of it", {
          next: "tram receive keeps all channels of a multifd migration",
        }),
      ),
    );
  const largest = [...blocks].sort((a, b) => b.bytes - a.bytes)[0];
  if (kind === "fixed" && blocks.every(({ content }) => content === 0) && largest)
    notes.push("every page is zero: a save by QEMU that was interrupted looks so, because it writes its bitmaps last");
  const untold = blocks.reduce((sum, block) => sum + block.untold, 0);
  if (untold && !multifd)
    notes.push(
      `the source told nothing of ${untold.toLocaleString("en-US")} pages: a target has them as it makes them, mostly zero`,
    );
  if (tail && !tail.description) notes.push("no description follows the devices: their borders cannot be checked");
  if (tail?.bordersBy === "headers")
    notes.push("the description does not fit the devices: only their borders were checked");
}
