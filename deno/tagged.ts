/**
 * Values as JSON texts, as this side of the wire sees them. `rlm_wasm/sandbox/values.py` documents the tags; here each
 * becomes the nearest thing that JavaScript has. Knows nothing of messages.
 *
 * | Python               | JavaScript, decoded                                     | encoded from               |
 * | -------------------- | ------------------------------------------------------- | -------------------------- |
 * | None, bool, str      | null, boolean, string                                   | also undefined             |
 * | int                  | number; bigint where a number would lose digits         | a whole number, any bigint |
 * | float                | number (1.0 and 1 become the same)                      | any other number           |
 * | list                 | Array                                                   | Array                      |
 * | tuple                | Array                                                   |                            |
 * | set, frozenset       | Set                                                     | Set                        |
 * | dict                 | Object; Map if a key is not a str or begins with `$`    | Object, Map                |
 * | bytes                | Uint8Array                                              | Uint8Array                 |
 * | datetime, date, time | string (ISO 8601)                                       | Date (a datetime in UTC)   |
 * | Decimal              | string                                                  |                            |
 *
 * @module
 */

const MAX_DEPTH = 100;
/** Those of the smallest 64-bit int, sign included. */
const MAX_DIGITS = 20;

type Fields = Record<string, unknown>;

/** The JSON text of a value. Throws TypeError for what has no form in Python, RangeError for too deep a nesting. */
export function encodeValue(value: unknown): string {
  return JSON.stringify(tagged(value, 0));
}

/** The value of a JSON text. Throws SyntaxError, TypeError or RangeError for one that breaks the rules. */
export function decodeValue(text: string): unknown {
  return JSON.parse(text, untagged as (this: unknown, key: string, value: unknown) => unknown);
}

function tagged(value: unknown, depth: number): unknown {
  if (value === undefined || value === null || typeof value === "boolean") return value ?? null;
  if (typeof value === "string") return value.toWellFormed();
  if (typeof value === "number") return Number.isFinite(value) ? value : { $float: spellNotFinite(value) };
  if (typeof value === "bigint") return { $int: `${value < 0 ? "-" : ""}0x${abs(value).toString(16)}` };
  if (depth >= MAX_DEPTH) {
    throw new RangeError(`the value is nested more than ${MAX_DEPTH} deep (or holds itself)`);
  }
  const inner = (item: unknown) => tagged(item, depth + 1);
  if (Array.isArray(value)) return value.map(inner);
  if (value instanceof Set) return { $set: Array.from(value, inner) };
  if (value instanceof Map) return { $dict: Array.from(value, (pair) => pair.map(inner)) };
  if (value instanceof Uint8Array) return { $bytes: value.toBase64() };
  if (value instanceof Date) return { $datetime: value.toISOString() };
  if (typeof value === "object" && isPlain(value)) {
    const pairs = Object.entries(value).map(([key, item]) => [key.toWellFormed(), inner(item)]);
    return pairs.some(([key]) => String(key).startsWith("$")) ? { $dict: pairs } : Object.fromEntries(pairs);
  }
  const kind = typeof value === "object" ? value.constructor?.name ?? "object" : typeof value;
  throw new TypeError(`a ${kind} cannot be sent to the sandbox`);
}

function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function spellNotFinite(value: number): string {
  if (Number.isNaN(value)) return "nan";
  return value > 0 ? "inf" : "-inf";
}

function abs(value: bigint): bigint {
  return value < 0n ? -value : value;
}

/** The reviver: called from the inside out, so that what a tag holds is decoded already. */
function untagged(_key: string, value: unknown, context: { source?: string }): unknown {
  if (typeof value === "number") {
    const digits = context.source ?? "";
    if (Number.isSafeInteger(value) || !/^-?[0-9]+$/.test(digits)) return value;
    if (digits.length > MAX_DIGITS) throw new RangeError("an int outside 64 bits that is not an $int");
    return BigInt(digits);
  }
  // an object with another prototype is a tag's value that was decoded a moment ago
  if (typeof value !== "object" || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
    return value;
  }
  const [tag, ...others] = Object.keys(value);
  if (tag === undefined || others.length > 0 || !tag.startsWith("$")) return value;
  const read = READERS.get(tag);
  if (!read) throw new TypeError(`there is no tag ${JSON.stringify(tag)}`);
  return read((value as Fields)[tag]);
}

function string(held: unknown): string {
  if (typeof held === "string") return held;
  throw new TypeError("a tag holds what it may not hold");
}

function list(held: unknown): unknown[] {
  if (Array.isArray(held)) return held;
  throw new TypeError("a tag holds what it may not hold");
}

function readInt(held: unknown): bigint {
  const [, sign, digits] = /^(-?)(0x[0-9a-f]+)$/.exec(string(held)) ?? [];
  if (digits === undefined) throw new TypeError("$int is not a number");
  return sign ? -BigInt(digits) : BigInt(digits);
}

function readFloat(held: unknown): number {
  const number = new Map([["nan", NaN], ["inf", Infinity], ["-inf", -Infinity]]).get(string(held));
  if (number === undefined) throw new TypeError("$float is not a number");
  return number;
}

function readPair(held: unknown): [unknown, unknown] {
  const pair = list(held);
  if (pair.length !== 2) throw new TypeError("$dict does not hold pairs");
  return [pair[0], pair[1]];
}

const READERS = new Map<string, (held: unknown) => unknown>([
  ["$int", readInt],
  ["$float", readFloat],
  ["$tuple", list],
  ["$set", (held) => new Set(list(held))],
  ["$frozenset", (held) => new Set(list(held))],
  ["$dict", (held) => new Map(list(held).map(readPair))],
  ["$bytes", (held) => Uint8Array.fromBase64(string(held))],
  ["$decimal", string],
  ["$datetime", string],
  ["$date", string],
  ["$time", string],
]);
