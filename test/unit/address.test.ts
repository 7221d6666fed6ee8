import { describe, expect, test } from "bun:test";
import { TramError } from "../../src/errors.ts";
import {
  ADDRESS_FORMS,
  type Address,
  formatAddress,
  parseAddress,
  SOCKET_PATH_BYTES_MAX,
} from "../../src/transport/address.ts";

const LONGEST = `/${"a".repeat(SOCKET_PATH_BYTES_MAX - 1)}`;

describe("an address", () => {
  test.each<[string, Address]>([
    ["tcp:10.0.0.7:4444", { scheme: "tcp", host: "10.0.0.7", port: 4444 }],
    ["tcp:host.example:0", { scheme: "tcp", host: "host.example", port: 0 }],
    ["tcp:host:65535", { scheme: "tcp", host: "host", port: 65535 }],
    ["tcp::4444", { scheme: "tcp", host: "", port: 4444 }],
    ["tcp:[::1]:4444", { scheme: "tcp", host: "::1", port: 4444 }],
    ["tcp:[fe80::1%eth0]:1", { scheme: "tcp", host: "fe80::1%eth0", port: 1 }],
    ["unix:/run/vm.sock", { scheme: "unix", path: "/run/vm.sock" }],
    ["unix:a:b c", { scheme: "unix", path: "a:b c" }],
    [`unix:${LONGEST}`, { scheme: "unix", path: LONGEST }],
    ["file:/var/x,y", { scheme: "file", path: "/var/x,y" }],
    ["file:relative", { scheme: "file", path: "relative" }],
    ["fd:0", { scheme: "fd", fd: 0 }],
    ["fd:17", { scheme: "fd", fd: 17 }],
    ["exec:cat > 'a:b'", { scheme: "exec", command: "cat > 'a:b'" }],
    ["-", { scheme: "stdio" }],
  ])("%p is read, and written the same again", (text, address) => {
    expect(parseAddress(text)).toEqual(address);
    expect(formatAddress(address)).toBe(text);
  });

  test("of TCP is written in its simplest form", () => {
    expect(formatAddress(parseAddress("tcp:[host]:007"))).toBe("tcp:host:7");
  });

  test.each<[string, string, string]>([
    ["", "it has no scheme", "for example"],
    ["vm", "it has no scheme", "file:vm"],
    ["/tmp/vm.bin", "it has no scheme", "file:/tmp/vm.bin"],
    ["/tmp/a:b", "there is no scheme '/tmp/a'", "unix:/tmp/a:b"],
    ["http://host:80", "there is no scheme 'http'", "file:"],
    ["TCP:host:1", "there is no scheme 'TCP'", "for example"],
    ["vsock:2:1", "there is no scheme 'vsock'", "for example"],
    ["tcp:", "it is not HOST:PORT", "tcp:10.0.0.7:4444"],
    ["tcp:host", "it is not HOST:PORT", "tcp:"],
    ["tcp:host:", "it is not HOST:PORT", "tcp:"],
    ["tcp:host:-1", "it is not HOST:PORT", "tcp:"],
    ["tcp:host:4a", "it is not HOST:PORT", "tcp:"],
    ["tcp:host:1:2", "it is not HOST:PORT", "tcp:"],
    ["tcp:::1:4444", "IPv6 addresses stand in brackets", "[::1]"],
    ["tcp:[::1]", "it is not HOST:PORT", "tcp:"],
    ["tcp:[::1:4444", "it is not HOST:PORT", "tcp:"],
    ["tcp:host:65536", "there is no port 65536", "tcp:"],
    ["tcp:host:99999999999999999999", "there is no port 99999999999999999999", "tcp:"],
    ["unix:", "the path is missing", "unix:"],
    [
      `unix:${LONGEST}b`,
      `at most ${SOCKET_PATH_BYTES_MAX} bytes, this one has ${SOCKET_PATH_BYTES_MAX + 1}`,
      "shorter",
    ],
    [`unix:${"ä".repeat(54)}`, "this one has 108", "XDG_RUNTIME_DIR"],
    ["file:", "the path is missing", "for example"],
    ["fd:", "the descriptor is not a number", "for example"],
    ["fd:-1", "the descriptor is not a number", "for example"],
    ["fd:3x", "the descriptor is not a number", "for example"],
    ["exec:", "the command is missing", "for example"],
    ["exec:  ", "the command is missing", "for example"],
    ["--", "it has no scheme", "for example"],
  ])("%p is refused: %s", (text, why, next) => {
    let error: unknown;
    try {
      parseAddress(text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(TramError);
    const { code, message, details } = error as TramError;
    expect(code).toBe("E_ADDRESS");
    expect(message).toStartWith(`bad address '${text}': `);
    expect(message).toContain(why);
    expect(details.expected).toBe(ADDRESS_FORMS);
    expect(next.split("|").some((word) => details.next?.includes(word))).toBe(true);
  });
});
