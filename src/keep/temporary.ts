// A plain stream whose pages are wanted at places: kept, for as long as this process looks at it, in a file without a name.
import { closeSync, openSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { MoveLog } from "../control/journal.ts";
import { reasonOf, TramError } from "../errors.ts";
import { PageFile } from "../native/file.ts";
import { MainChannel } from "../reader/main-channel.ts";
import { MappedFile } from "../reader/mapped.ts";
import { TransportSource } from "../reader/source.ts";
import { FileTransport } from "../transport/file.ts";
import type { Transport } from "../transport/transport.ts";
import { MappedSink, MappedWriter } from "../writer/mapped.ts";
import { keep } from "./keep.ts";

/** Reads all of `transport`, whose stream begins at `offset`; the file lies in `folder`. */
export function keepTemporarily(transport: Transport, offset: number, folder: string): MappedFile {
  const path = join(folder, `.tram-${process.pid}-${performance.now()}`);
  let fd: number;
  try {
    fd = openSync(path, "wx+", 0o600);
    unlinkSync(path);
  } catch (error) {
    throw new TramError("E_FILE", `cannot make a temporary file in ${folder}: ${reasonOf(error)}`, {
      next: "set TMPDIR to a folder with room for the guest's RAM",
    });
  }
  try {
    const pages = new PageFile(fd);
    const file = new MappedWriter(fd, 0);
    const main = new MainChannel(new TransportSource(transport, offset));
    const context = {
      openReturnPath: () => undefined,
      untouched: () => undefined,
      answerPing: () => undefined,
      begin: () => main.into(file.targets.map((target) => new MappedSink(pages, target))),
      barrier: (flush: boolean) => {
        if (flush)
          throw new TramError("E_STREAM", "the stream's pages came over other channels", {
            where: transport.name,
            next: "only tram receive sees them all",
          });
      },
      channelCounts: () => ({ pages: 0, zeroPages: 0, bytes: 0 }),
      checkCancelled: () => undefined,
    };
    keep(
      main,
      file,
      context,
      new MoveLog(
        "incoming",
        transport.name,
        () => undefined,
        () => performance.now(),
      ),
    );
    return new MappedFile(new FileTransport(fd, transport.name));
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}
