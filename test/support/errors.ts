// The error that an action ends with, for tests that look at its code and its place.
import { TramError } from "../../src/errors.ts";

export function errorOf(action: () => unknown): TramError {
  let result: unknown;
  try {
    result = action();
  } catch (error) {
    if (error instanceof TramError) return error;
    throw error; // any other exception is a defect, and its own text says most
  }
  throw new Error(`nothing was thrown, but returned: ${Bun.inspect(result).slice(0, 200)}`);
}

/** The offset that the error names. */
export const byteOf = (error: TramError): number => Number(/^byte (\d+) /.exec(error.details.where ?? "")?.[1]);
