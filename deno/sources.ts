/**
 * What a jail loads beside `assets.ts` if it boots without an image, or makes one: an image has these in it.
 *
 * @module
 */

import asmSource from "./pyodide/pyodide.asm.mjs" with { type: "text" };
import awaits from "./awaits.py" with { type: "text" };
import equipment from "./equipment.py" with { type: "text" };
import files from "./files.py" with { type: "text" };
import names from "./names.py" with { type: "text" };
import output from "./output.py" with { type: "text" };
import packages from "./packages.py" with { type: "text" };
import prelude from "./prelude.py" with { type: "text" };
import threads from "./threads.py" with { type: "text" };
import tracebacks from "./tracebacks.py" with { type: "text" };
import values from "./values.py" with { type: "text" };

export { asmSource };
/** The Python that runs inside, as modules by name; `rlm_prelude` imports the others. */
export const PYTHON_MODULES: [name: string, source: string][] = [
  ["rlm_awaits", awaits],
  ["rlm_equipment", equipment],
  ["rlm_files", files],
  ["rlm_names", names],
  ["rlm_output", output],
  ["rlm_packages", packages],
  ["rlm_prelude", prelude],
  ["rlm_threads", threads],
  ["rlm_tracebacks", tracebacks],
  ["rlm_values", values],
];
