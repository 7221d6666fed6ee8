// All commands. One list: the help, the completions and the manual are made of it.
import { balloon } from "./balloon.ts";
import { check } from "./check.ts";
import type { TramCommand } from "./command.ts";
import { completionCommand } from "./completion.ts";
import { connect } from "./connect.ts";
import { convert } from "./convert.ts";
import { demo } from "./demo.ts";
import { diff } from "./diff.ts";
import { doctor } from "./doctor.ts";
import { extract } from "./extract.ts";
import { dirtyRate, forecast, rehearse } from "./foretell.ts";
import { inspect } from "./inspect.ts";
import { logs } from "./logs.ts";
import { migrate } from "./migrate.ts";
import { pace } from "./pace.ts";
import { receive } from "./receive.ts";
import { restore } from "./restore.ts";
import { run } from "./run.ts";
import { save } from "./save.ts";
import { schemaCommand } from "./schema.ts";
import { seal } from "./seal.ts";
import { send } from "./send.ts";
import { set } from "./set.ts";
import { checkGuest, pause, ps, quit, resume, status } from "./steer.ts";
import { top } from "./top.ts";
import { verify } from "./verify.ts";
import { wait } from "./wait.ts";

/** In the order in which a newcomer needs them. */
export const COMMANDS: readonly TramCommand[] = [
  run,
  migrate,
  save,
  receive,
  send,
  restore,
  inspect,
  check,
  verify,
  seal,
  extract,
  convert,
  diff,
  ps,
  top,
  status,
  wait,
  logs,
  connect,
  pause,
  resume,
  balloon,
  set,
  dirtyRate,
  forecast,
  rehearse,
  quit,
  checkGuest,
  pace,
  doctor,
  schemaCommand,
  demo,
  completionCommand(() => COMMANDS),
];
