/**
 * What every jail loads, as bytes and texts. Imports that are written out need no permission to read, so a process that
 * never had one still gets them; nothing is looked up at run time.
 *
 * @module
 */

import stdlib from "./pyodide/python_stdlib.zip" with { type: "bytes" };
import pyodideSource from "./pyodide/pyodide.mjs" with { type: "text" };

export { pyodideSource };
/** CPython's standard library, a zip. */
export const STDLIB: Uint8Array<ArrayBuffer> = stdlib;
