// tram schema: what --json says, for programs that want to check it or to be written from it.
import schema from "../../schema/tram-1.schema.json";
import { EXIT } from "../errors.ts";
import { command } from "./command.ts";
import { print } from "./console.ts";

export const schemaCommand = command({
  name: "schema",
  summary: "prints the JSON Schema of everything that --json says",
  args: {},
  examples: ["tram schema > tram-1.schema.json", 'tram schema | jq \'."$defs"."move.progress"\''],
  run() {
    print(JSON.stringify(schema, null, 2));
    return EXIT.done;
  },
});
