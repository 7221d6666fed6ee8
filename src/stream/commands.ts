// Names of the main channel's commands, for people.
const NAMES: Record<number, string> = {
  1: "OPEN_RETURN_PATH",
  2: "PING",
  3: "POSTCOPY_ADVISE",
  4: "POSTCOPY_LISTEN",
  5: "POSTCOPY_RUN",
  6: "POSTCOPY_RAM_DISCARD",
  7: "PACKAGED",
  8: "ENABLE_COLO",
  9: "POSTCOPY_RESUME",
  10: "RECV_BITMAP",
  11: "SWITCHOVER_START",
};

export const commandName = (number: number): string => NAMES[number] ?? `command ${number}`;
