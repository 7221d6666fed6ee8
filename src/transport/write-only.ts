// A transport reduced to write: the same bytes through a copying buffer. What a channel without iovecs sees, and what the
// benchmark measures uncopied pages against.
import type { Transport } from "./transport.ts";

export class WriteOnly implements Transport {
  readonly #inner: Transport;

  constructor(inner: Transport) {
    this.#inner = inner;
  }

  get name(): string {
    return this.#inner.name;
  }
  get twoWay(): boolean {
    return this.#inner.twoWay;
  }
  write(data: Uint8Array, bytes = data.length): void {
    this.#inner.write(data, bytes);
  }
  read(out: Uint8Array, timeoutMs?: number): number {
    return this.#inner.read(out, timeoutMs);
  }
  unsent(): number {
    return this.#inner.unsent?.() ?? 0;
  }

  drain(timeoutMs: number): boolean {
    return this.#inner.drain(timeoutMs);
  }
  close(): void {
    this.#inner.close();
  }
}
