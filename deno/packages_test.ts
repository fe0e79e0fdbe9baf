// Archives of packages and records of libraries: what is read of them, and what is refused. Whole sandboxes with packages
// are tried in `tests/sandbox/test_packages.py`.
import assert from "node:assert/strict";
import { pack, unpack } from "./linking.ts";
import { type FileSystem, mount, type Nodes, readArchive } from "./packages.ts";

function archiveOf(table: unknown, content: string): Uint8Array<ArrayBuffer> {
  const head = new TextEncoder().encode(typeof table === "string" ? table : JSON.stringify(table));
  const fields = new Uint8Array(new Uint32Array([0x504d4c52, 1, head.length]).buffer);
  return new Uint8Array([...fields, ...head, ...new TextEncoder().encode(content)]);
}

Deno.test("the files of an archive are parts of its bytes", () => {
  const bytes = archiveOf({ files: [["/packages/a.py", 3], ["/packages/b/c.so", 0]], imports: ["a"] }, "x=1");
  const { files, imports } = readArchive(bytes);
  assert.deepEqual(files.map(([path, content]) => [path, new TextDecoder().decode(content)]), [
    ["/packages/a.py", "x=1"],
    ["/packages/b/c.so", ""],
  ]);
  assert.deepEqual(imports, ["a"]);
  assert.equal(files[0]?.[1].buffer, bytes.buffer);
});

Deno.test("what is no archive, leads elsewhere, or is shorter or longer than it says is refused", () => {
  const good = archiveOf({ files: [["/packages/a.py", 3]], imports: [] }, "x=1");
  const paths = ["/etc/a.py", "/packages/../a.py", "/packages/a//b", "packages/a", "/packages/", 7];
  const broken = [
    new Uint8Array(),
    good.slice(1),
    good.slice(0, -1),
    new Uint8Array([...good, 0]),
    archiveOf("no JSON", ""),
    archiveOf({ files: [["/packages/a.py", -1]], imports: [] }, ""),
    ...paths.map((path) => archiveOf({ files: [[path, 0]], imports: [] }, "")),
  ];
  for (const bytes of broken) assert.throws(() => readArchive(bytes));
});

Deno.test("a file is put where it belongs without being copied, at a time that is the same everywhere", () => {
  const made = new Map<string, { contents: unknown; usedBytes: number; mtime: number }>();
  const node = (path: string) => {
    const known = made.get(path) ?? { contents: {}, usedBytes: 0, atime: 0, mtime: 0, ctime: 0, path };
    made.set(path, known);
    return { node: known };
  };
  const fs = { mkdirTree: () => {}, lookupPath: node } as unknown as FileSystem;
  const nodes = {
    createNode: (parent: unknown, name: string) => node(`${(parent as { path: string }).path}/${name}`).node,
  };
  const content = new TextEncoder().encode("x=1");
  mount(fs, nodes as unknown as Nodes, [["/packages/b/a.py", content]]);
  const file = made.get("/packages/b/a.py")!;
  assert.equal(file.contents, content);
  assert.equal(file.usedBytes, 3);
  for (const { mtime } of made.values()) assert.equal(mtime, file.mtime);
  assert.deepEqual([...made.keys()].sort(), ["/packages", "/packages/b", "/packages/b/a.py"]);
});

Deno.test("a record of libraries comes back, and one that reaches for more than numbers and names does not", () => {
  const library = { name: "/packages/a.so", memory: 16, bytes: 8, table: 9, entries: 2 };
  const links = {
    libraries: [{ ...library, global: false, forever: false, count: 1, handles: [44] }],
    entries: [[11, "__main__", "f"]] as [number, string, string][],
    offsets: { f: 11 },
    free: [],
    tableLength: 12,
  };
  assert.deepEqual(unpack(pack(links)), links);
  assert.equal(unpack(pack(null)), null);
  const text = JSON.stringify(links);
  const changes: [was: string, is: string][] = [
    ['"f":11', '"__proto__":11'],
    ['"__main__"', '"__proto__"'],
    ["44", '"x"'],
    ["12}", "{}}"],
  ];
  for (const [was, is] of changes) {
    assert.throws(() => unpack(new TextEncoder().encode(text.replace(was, is))));
  }
});
