// The reference for a start: Pyodide in Deno as its documentation shows it, with every permission, to its first result.
import { loadPyodide } from "../../deno/pyodide/pyodide.mjs";

const folder = new URL("../../deno/pyodide/", import.meta.url).pathname;
const pyodide = await loadPyodide({ indexURL: folder });
Deno.stdout.writeSync(new TextEncoder().encode(`${pyodide.runPython("1 + 1")}\n`));
Deno.exit(0);
