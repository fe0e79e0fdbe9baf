// Run by test_twin.py: restores the checkpoint of one file, runs a cell, and saves a checkpoint into another.
import { Checkpoint, Sandbox } from "../../deno/mod.ts";

const [from, to, code] = Deno.args as [string, string, string];
const checkpoint = await Checkpoint.load(from);
const functions = { ask: (text: unknown) => `${text} in TypeScript` };
await using sandbox = await Sandbox.restore(checkpoint, { functions });
const run = await sandbox.execute(code);
await (await sandbox.checkpoint()).save(to);
const { names, cells } = checkpoint;
await Deno.stdout.write(new TextEncoder().encode(JSON.stringify({ run, names, cells })));
