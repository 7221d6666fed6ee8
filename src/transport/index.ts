// Opening and listening: one line a scheme. Schemes that belong to the command (file:, exec:, fd:, -) arrive here as
// descriptors, because only the command's process has them.
import { rmSync, statSync } from "node:fs";
import { TramError } from "../errors.ts";
import { net, type StopWord } from "../native/net.ts";
import { type Address, formatAddress } from "./address.ts";
import { type FdOptions, FdTransport } from "./fd.ts";

export type { Transport } from "./transport.ts";

/** An address that a guest's process can open by itself, or a descriptor that was passed to it. */
export type Endpoint = Extract<Address, { scheme: "tcp" | "unix" }> | { scheme: "passed"; fd: number; name: string };

export interface OpenOptions {
  stop: StopWord;
  silenceMs: number;
  iovMax?: number;
}

export const endpointName = (endpoint: Endpoint): string =>
  endpoint.scheme === "passed" ? endpoint.name : formatAddress(endpoint);

export function open(endpoint: Endpoint, options: OpenOptions): FdTransport {
  const settings: FdOptions = { ...options, name: endpointName(endpoint) };
  return new FdTransport(connect(endpoint, options.silenceMs, options.stop), settings);
}

/** A new connection to it; a passed descriptor is what it is. */
export function connect(endpoint: Endpoint, timeoutMs: number, stop: StopWord): number {
  switch (endpoint.scheme) {
    case "tcp":
      return net.connectTcp(endpoint.host, endpoint.port, timeoutMs, stop);
    case "unix":
      return net.connectUnix(endpoint.path, timeoutMs, stop);
    case "passed":
      return endpoint.fd;
  }
}

/** A listening socket, or a descriptor that needs no listening. */
export interface Listener {
  endpoint: Endpoint;
  /** The listening socket; -1 for a passed descriptor. */
  fd: number;
}

/** Listens at once, so that an address in use is an error before anything else; port 0 becomes the port chosen. */
export function listen(endpoint: Endpoint): Listener {
  if (endpoint.scheme === "passed") return { endpoint, fd: -1 };
  if (endpoint.scheme === "tcp") {
    const fd = net.listenTcp(endpoint.host, endpoint.port);
    return { endpoint: { ...endpoint, port: net.localPort(fd) }, fd };
  }
  const probe = net.tryConnectUnix(endpoint.path, 1000);
  if (probe >= 0) {
    net.close(probe);
    throw new TramError("E_SOCKET_IN_USE", `something listens on unix:${endpoint.path} already`, {
      next: "choose another path, or end what listens there",
    });
  }
  if (probe === -111 /* ECONNREFUSED: nobody is behind it any more */) {
    if (!statSync(endpoint.path).isSocket())
      throw new TramError("E_SOCKET_IN_USE", `${endpoint.path} is there and is no socket`, {
        next: "choose another path",
      });
    rmSync(endpoint.path, { force: true });
  }
  return { endpoint, fd: net.listenUnix(endpoint.path) };
}

export function unlisten(listener: Listener): void {
  if (listener.fd < 0) return;
  net.close(listener.fd);
  if (listener.endpoint.scheme === "unix") rmSync(listener.endpoint.path, { force: true });
}
