// One of the threads that hash a file's pages, for tram verify and tram seal.
import { parentPort, workerData } from "node:worker_threads";
import { type ErrorData, toErrorData } from "../errors.ts";
import { type HashJob, type HashResult, hashPages } from "./hashing.ts";

export interface VerifierInit {
  library: string;
  name: string;
  job: HashJob;
}

export type VerifierMessage = { result: HashResult } | { error: ErrorData };

const { job } = workerData as VerifierInit;
const tell = (message: VerifierMessage): void => parentPort?.postMessage(message);

try {
  tell({ result: hashPages(job) });
} catch (error) {
  tell({ error: toErrorData(error) });
}
