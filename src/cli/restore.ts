// tram restore: brings a guest out of a snapshot. For a QEMU guest it says how: QEMU itself must run it.
import { EXIT, TramError } from "../errors.ts";
import { commandLine, pluggedDevices } from "../inspect/machine.ts";
import { openInput } from "../inspect/source.ts";
import { survey } from "../inspect/survey.ts";
import { MACHINE_NAME } from "../stream/devices/machine.ts";
import { command } from "./command.ts";
import { print } from "./console.ts";
import { inFile, parseFile } from "./file-target.ts";
import { isOurSnapshot, RESTORE_ARGS } from "./restore-guest.ts";
import { ACCEL_ARGS, PROCESS_ARGS, startGuest } from "./run.ts";

export const restore = command({
  name: "restore",
  summary: "brings a guest out of a snapshot",
  args: {
    file: {
      type: "positional",
      description: "the file: PATH, file:PATH,offset=N, fd:N or -",
      required: true,
      names: "file",
    },
    name: { type: "string", description: "the guest's name (default the one it was saved with)", valueHint: "NAME" },
    disk: {
      type: "string",
      description:
        "copies of its disks, taken when it was saved, one for each in their order: FILE[,mode=cow] (default: its own, which must be as they were)",
      valueHint: "FILE",
      names: "file",
      many: true,
    },
    net: {
      type: "string",
      description: "the tap that its network card has here; or none: its cable is unplugged",
      valueHint: "tap:NAME|none",
      suggestions: ["tap:", "none"],
    },
    ...RESTORE_ARGS,
    ...ACCEL_ARGS,
    ...PROCESS_ARGS,
  },
  examples: [
    "tram restore a.tram                     # runs within milliseconds; its memory is read while it runs",
    "tram restore a.tram --name b            # a clone: the file is never changed",
    "tram restore -d a.tram                  # in the background; tram logs a",
    "tram restore a.tram --eager --channels 4",
    "tram restore a.tram --name b --disk disk.img,mode=cow     # a clone: nor is its disk changed",
    "tram restore a.tram --verify first      # no page is seen before it was checked",
  ],
  async run(args) {
    const spec = parseFile(args.file, 0);
    return isOurSnapshot(spec)
      ? startGuest({ ...args, incoming: args.file }, spec)
      : inFile(args.file, () => explain(args.file));
  },
});

/** What cannot be run here: of a QEMU guest, how it is brought back. */
function explain(file: string): number {
  const input = openInput(parseFile(file, 0));
  const found = survey(input.transport, input.offset, null);
  if (found.problem) throw new TramError(found.problem.code, found.problem.message, found.problem);
  const { machine } = found.configuration;
  if (machine === MACHINE_NAME)
    throw new TramError(
      "E_REFUSED",
      `${file} is a stream, in which pages have no places: it can only be read from its beginning`,
      {
        next: `tram run --incoming ${file.includes(":") || file === "-" ? file : `file:${file}`}; or tram convert makes a snapshot of it`,
      },
    );
  const fixed = found.kind === "fixed" ? file : "FILE";
  const plugged = pluggedDevices(found.devices);
  const lines = [
    `${file} is of a QEMU guest, which QEMU must run. Start it as it was started before, waiting:`,
    "",
    `  ${commandLine(machine, found.blocks, found.devices).join(" ")} \\`,
    "    … -qmp unix:/tmp/vm.qmp,server=on,wait=off -incoming unix:/tmp/in.sock",
    "",
    "and give it the file:",
    "",
    ...(found.kind === "fixed" ? [] : [`  tram convert ${file} FILE`]),
    `  tram check ${fixed} --against unix:/tmp/vm.qmp`,
    `  tram send ${fixed} unix:/tmp/in.sock`,
    "",
    plugged.length ? `Devices it had, by their place: ${plugged.join(", ")}` : "No devices on a bus are in the file.",
    "Disks are not in the file: they must be as they were when it was saved.",
  ];
  print(lines.join("\n"));
  return EXIT.refused; // nothing runs yet
}
