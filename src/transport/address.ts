// Addresses: tcp:HOST:PORT, unix:PATH, file:PATH, fd:N, exec:COMMAND and -.
import { TramError } from "../errors.ts";

export type Address =
  | { scheme: "tcp"; host: string; port: number }
  | { scheme: "unix"; path: string }
  | { scheme: "file"; path: string }
  | { scheme: "fd"; fd: number }
  | { scheme: "exec"; command: string }
  | { scheme: "stdio" };

export const ADDRESS_FORMS = "tcp:HOST:PORT, unix:PATH, file:PATH, fd:N, exec:COMMAND or -";
/** sun_path holds 108 bytes with its NUL. */
export const SOCKET_PATH_BYTES_MAX = 107;

export function parseAddress(text: string): Address {
  const bad = (why: string, next = "for example tcp:10.0.0.7:4444, tcp:[::1]:4444 or unix:/run/vm.sock") =>
    new TramError("E_ADDRESS", `bad address '${text}': ${why}`, { expected: ADDRESS_FORMS, next });
  if (text === "-") return { scheme: "stdio" };
  const colon = text.indexOf(":");
  const scheme = colon < 0 ? "" : text.slice(0, colon);
  const rest = text.slice(colon + 1);
  switch (scheme) {
    case "tcp": {
      const match = /^(?:\[([^\]]*)\]|([^:[\]]*)):([0-9]+)$/.exec(rest);
      if (!match) throw bad("it is not HOST:PORT (IPv6 addresses stand in brackets)");
      if (rest.length > 300) throw bad("the host's name is too long");
      const port = Number(match[3]);
      if (port > 65535) throw bad(`there is no port ${match[3]}`);
      return { scheme, host: match[1] ?? match[2], port };
    }
    case "unix":
      if (rest === "") throw bad("the path is missing");
      if (Buffer.byteLength(rest) > SOCKET_PATH_BYTES_MAX)
        throw bad(
          `a socket path has at most ${SOCKET_PATH_BYTES_MAX} bytes, this one has ${Buffer.byteLength(rest)}`,
          "use a shorter path, for example in $XDG_RUNTIME_DIR",
        );
      return { scheme, path: rest };
    case "file":
      if (rest === "") throw bad("the path is missing");
      return { scheme, path: rest };
    case "fd":
      if (!/^[0-9]{1,9}$/.test(rest)) throw bad("the descriptor is not a number that can be one");
      return { scheme, fd: Number(rest) };
    case "exec":
      if (rest.trim() === "") throw bad("the command is missing");
      return { scheme, command: rest };
    default:
      throw bad(
        scheme === "" ? "it has no scheme" : `there is no scheme '${scheme}'`,
        text.includes("/") || /^\w+$/.test(text) ? `a file is file:${text}, a socket unix:${text}` : undefined,
      );
  }
}

export function formatAddress(address: Address): string {
  switch (address.scheme) {
    case "tcp":
      return `tcp:${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
    case "unix":
    case "file":
      return `${address.scheme}:${address.path}`;
    case "fd":
      return `fd:${address.fd}`;
    case "exec":
      return `exec:${address.command}`;
    case "stdio":
      return "-";
  }
}
