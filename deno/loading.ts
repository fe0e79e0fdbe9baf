/**
 * A large value on its way into the interpreter: its object is made first, then its bytes are put where they belong,
 * piece by piece, with nothing decoded and nothing held twice. Handed to the jail beside `worker.ts`.
 *
 * @module
 */

/** How CPython holds a value: a str by the width of its widest character, or bytes. */
export type Form = "ascii" | "latin1" | "ucs2" | "ucs4" | "bytes";

/** What is used of Pyodide's module: CPython's C API and the interpreter's memory. */
export interface Module {
  HEAPU8: Uint8Array;
  _malloc(bytes: number): number;
  _free(address: number): void;
  _PyUnicode_New(length: number, widest: number): number;
  _PyBytes_FromStringAndSize(content: number, length: number): number;
  _PyErr_Clear(): void;
  _PyImport_AddModule(name: number): number;
  _PyModule_GetDict(module: number): number;
  _PyDict_SetItemString(dict: number, name: number, value: number): number;
  _Py_DecRef(object: number): void;
}

/** By form: the widest character that says so to `PyUnicode_New`, bytes for each, and where they begin in the object. */
const FORMS: Record<Form, { widest: number; width: number; header: number }> = {
  ascii: { widest: 0x7f, width: 1, header: 20 },
  latin1: { widest: 0xff, width: 1, header: 28 },
  ucs2: { widest: 0xffff, width: 2, header: 28 },
  ucs4: { widest: 0x10ffff, width: 4, header: 28 },
  bytes: { widest: 0, width: 1, header: 16 },
};

/** One value being loaded. */
export class Loading {
  #module: Module;
  #object: number;
  #next: number;
  #end: number;

  private constructor(module: Module, object: number, header: number, size: number) {
    this.#module = module;
    this.#object = object;
    this.#next = object + header;
    this.#end = this.#next + size;
  }

  /** Make the object, of `length` characters or bytes; null if there is no memory for it. */
  static begin(module: Module, form: Form, length: number): Loading | null {
    const { widest, width, header } = FORMS[form];
    const object = form === "bytes"
      ? module._PyBytes_FromStringAndSize(0, length)
      : module._PyUnicode_New(length, widest);
    if (object !== 0) return new Loading(module, object, header, length * width);
    module._PyErr_Clear();
    return null;
  }

  /** Put the next bytes in their place; false if there are more than were announced. */
  add(bytes: Uint8Array): boolean {
    if (this.#next + bytes.length > this.#end) return false;
    this.#module.HEAPU8.set(bytes, this.#next);
    this.#next += bytes.length;
    return true;
  }

  /** Give it its name among the user's variables; false if it is not whole. */
  finish(name: string): boolean {
    const module = this.#module;
    const whole = this.#next === this.#end;
    if (whole) {
      const main = text(module, "__main__");
      const key = text(module, name);
      const dict = module._PyModule_GetDict(module._PyImport_AddModule(main));
      module._PyDict_SetItemString(dict, key, this.#object);
      module._free(key);
      module._free(main);
    }
    this.abandon();
    return whole;
  }

  /** Give up what this holds of the object. */
  abandon(): void {
    this.#module._Py_DecRef(this.#object);
  }
}

/** A C string in the interpreter's memory; the caller frees it. */
function text(module: Module, content: string): number {
  const bytes = new TextEncoder().encode(`${content}\0`);
  const address = module._malloc(bytes.length);
  module.HEAPU8.set(bytes, address);
  return address;
}
