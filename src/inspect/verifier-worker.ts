// One of the threads that hash a file's pages, for tram verify and tram seal.

import { type ErrorData, toErrorData } from "../errors.ts";
import { initOf, tell } from "../thread.ts";
import { type HashJob, type HashResult, hashPages } from "./hashing.ts";

export interface VerifierInit {
  name: string;
  job: HashJob;
}

export type VerifierMessage = { result: HashResult } | { error: ErrorData };

const { job } = initOf<VerifierInit>();
const tellMain = (message: VerifierMessage): void => tell(message);

try {
  tellMain({ result: hashPages(job) });
} catch (error) {
  tellMain({ error: toErrorData(error) });
}
