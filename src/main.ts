import { versionLine } from "./cli/version.ts";

const argv = process.argv.slice(2);
const [only] = argv;

if (argv.length === 1 && (only === "--version" || only === "-V")) {
  // Answered before anything else is loaded: scripts ask often.
  console.log(versionLine());
} else {
  const [{ run }, { report, wantsJson }] = await Promise.all([import("./cli/root.ts"), import("./cli/report.ts")]);
  const code = await run(argv, process.env).catch((thrown: unknown) =>
    report(thrown, process.env, wantsJson(argv, process.env)),
  );
  // Everything has been written; an open stdin must not keep the process alive.
  process.exit(code);
}
