// tram restore: for a QEMU guest, how it is brought back; QEMU itself must run it.
import { EXIT, TramError } from "../errors.ts";
import { commandLine, pluggedDevices } from "../inspect/machine.ts";
import { openInput } from "../inspect/source.ts";
import { survey } from "../inspect/survey.ts";
import { MACHINE_NAME } from "../stream/devices/machine.ts";
import { command } from "./command.ts";
import { print } from "./console.ts";
import { parseFile } from "./file-target.ts";

export const restore = command({
  name: "restore",
  summary: "says how a kept guest is brought back",
  args: { file: { type: "positional", description: "the file: PATH or file:PATH,offset=N", required: true } },
  examples: ["tram restore vm.tram"],
  run(args) {
    const input = openInput(parseFile(args.file, 0));
    const found = survey(input.transport, input.offset, null);
    if (found.problem) throw new TramError(found.problem.code, found.problem.message, found.problem);
    const { machine } = found.configuration;
    if (machine === MACHINE_NAME)
      throw new TramError("E_REFUSED", "a tram guest is brought back in two steps for now", {
        next: `tram run --incoming unix:/tmp/in.sock --name NAME, then: tram send ${args.file} unix:/tmp/in.sock`,
      });
    const fixed = found.kind === "fixed" ? args.file : "FILE";
    const plugged = pluggedDevices(found.devices);
    const lines = [
      `${args.file} is of a QEMU guest, which QEMU must run. Start it as it was started before, waiting:`,
      "",
      `  ${commandLine(machine, found.blocks, found.devices).join(" ")} \\`,
      "    … -qmp unix:/tmp/vm.qmp,server=on,wait=off -incoming unix:/tmp/in.sock",
      "",
      "and give it the file:",
      "",
      ...(found.kind === "fixed" ? [] : [`  tram convert ${args.file} FILE`]),
      `  tram check ${fixed} --against unix:/tmp/vm.qmp`,
      `  tram send ${fixed} unix:/tmp/in.sock`,
      "",
      plugged.length ? `Devices it had, by their place: ${plugged.join(", ")}` : "No devices on a bus are in the file.",
      "Disks are not in the file: they must be as they were when it was saved.",
    ];
    print(lines.join("\n"));
    return EXIT.refused; // nothing runs yet
  },
});
