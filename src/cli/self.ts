// This same executable, to be run once more.

/** Its command line: in the executable argv[1] is inside of it; run from source, it is main.ts. */
export function ownCommand(args: readonly string[]): string[] {
  const script = process.argv[1];
  return script.startsWith("/$bunfs/") ? [process.execPath, ...args] : [process.execPath, script, ...args];
}
