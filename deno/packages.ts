/**
 * Packages: files that the host has unpacked of wheels, put into the interpreter's file system as they came, none of them
 * copied. Handed to the jail beside `worker.ts`.
 *
 * An archive is the bytes of "RLMP", its version and the length of its table (32 bits each, little-endian), the table,
 * a JSON text in UTF-8, and the contents of all files, one after the other:
 *
 *     {"files": [[path, bytes], ...], "imports": [name, ...]}
 *
 * Paths are absolute; `imports` are the modules that are imported when an image is made.
 *
 * @module
 */

const MAGIC = 0x504d4c52, VERSION = 1, FIELDS = 12;
/** Where files may be put: packages for Python, and libraries that several of them share. */
const FOLDERS = ["/packages/", "/usr/lib/"];
/** Milliseconds since the epoch; the same everywhere, so that what Python knows of a folder stays true in an image. */
const CHANGED = Date.UTC(2026, 0, 1);
const FILE = 0o100444;

/** A file of an archive. */
export type File = [path: string, content: Uint8Array<ArrayBuffer>];

/** What an archive holds. */
export interface Archive {
  files: File[];
  imports: string[];
}

/** A node of Emscripten's file system in memory. */
interface Node {
  contents: Uint8Array | Record<string, Node>;
  usedBytes: number;
  atime: number;
  mtime: number;
  ctime: number;
}
/** What is used of Emscripten's file system. */
export interface FileSystem {
  mkdirTree(path: string): void;
  lookupPath(path: string): { node: Node };
}
/** What is used of its files in memory. */
export interface Nodes {
  createNode(parent: Node, name: string, mode: number, dev: number): Node;
}

function isPath(path: unknown): path is string {
  return typeof path === "string" && FOLDERS.some((folder) => path.startsWith(folder)) &&
    path.split("/").slice(1).every((part) => part !== "" && part !== "." && part !== "..");
}

/** Read an archive, whose files are parts of `bytes`. Throws RangeError for what is none. */
export function readArchive(bytes: Uint8Array<ArrayBuffer>): Archive {
  const fields = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < FIELDS || fields.getUint32(0, true) !== MAGIC || fields.getUint32(4, true) !== VERSION) {
    throw new RangeError("no archive of packages");
  }
  let at = FIELDS + fields.getUint32(8, true);
  const table = JSON.parse(new TextDecoder().decode(bytes.subarray(FIELDS, at)));
  const files = (table.files as [unknown, unknown][]).map(([path, size]): File => {
    if (!isPath(path) || !Number.isSafeInteger(size) || (size as number) < 0) {
      throw new RangeError("a damaged archive of packages");
    }
    const content = bytes.subarray(at, at += size as number);
    return [path, content];
  });
  if (at !== bytes.length) throw new RangeError("a damaged archive of packages");
  return { files, imports: (table.imports as unknown[]).map(String) };
}

/** Put the files where they belong; no path may come twice. */
export function mount(fs: FileSystem, nodes: Nodes, files: File[]): void {
  const folders = new Map<string, Node>();
  const folderOf = (path: string): Node => {
    const known = folders.get(path);
    if (known) return known;
    fs.mkdirTree(path);
    const { node } = fs.lookupPath(path);
    folders.set(path, node);
    return node;
  };
  for (const [path, content] of files) {
    const slash = path.lastIndexOf("/");
    const node = nodes.createNode(folderOf(path.slice(0, slash)), path.slice(slash + 1), FILE, 0);
    node.contents = content;
    node.usedBytes = content.length;
    node.atime = node.mtime = node.ctime = CHANGED;
  }
  for (const folder of folders.keys()) {
    // those above it too, which mkdirTree has made
    for (let path = folder; path; path = path.slice(0, path.lastIndexOf("/"))) {
      const { node } = fs.lookupPath(path);
      node.atime = node.mtime = node.ctime = CHANGED;
    }
  }
}
