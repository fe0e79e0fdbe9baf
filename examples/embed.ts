/**
 * The sandbox in a program that ships Deno, with no Python installed: load, run, answer calls, go on in two ways.
 *
 *     deno run --allow-run --allow-write --allow-read examples/embed.ts
 *
 * Permission to run is for the child, to write for its empty folder, to read for the checkpoint behind `fork`.
 */

import { FunctionError, Sandbox } from "../deno/mod.ts";

const prices: Record<string, number> = { bolt: 0.25, gear: 12.5, nut: 0.1 };
const orders = "bolt 100\ngear 2\nwheel 4\nnut 50\n";

/** Called by code that nobody has read: an argument is data. */
function priceOf(part: unknown): number {
  const price = prices[String(part)];
  if (price === undefined || !Object.hasOwn(prices, String(part))) {
    // its text is shown to the cell; of any other error only the class name is
    throw new FunctionError(`no part ${JSON.stringify(part)}`);
  }
  return price;
}

const total = `
unknown, total = [], 0
for line in orders.splitlines():
    part, count = line.split()
    try:
        total += price_of(part) * int(count)
    except FunctionError as error:
        unknown.append(str(error))
print(unknown)
FINAL({"total": total, "lines": len(orders.splitlines())})
`;

function show(...texts: unknown[]): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${texts.join(" ")}\n`));
}

await using sandbox = await Sandbox.open({ functions: { price_of: priceOf }, timeout: 10 });
await sandbox.load({ orders });
const run = await sandbox.execute(total);
show("printed:", run.stdout.trim());
show("answer:", JSON.stringify(run.final));

const mistake = await sandbox.execute("kept = 7\nopen('/etc/passwd')");
show("a mistake is text:", mistake.error?.trim().split("\n").at(-1));

const endless = await sandbox.execute("while True: pass", { timeout: 0.2 });
show("out of time:", endless.timedOut, "| kept:", await sandbox.get("kept"));

const [other] = await sandbox.fork();
await using fork = other!;
await fork.execute("total *= 2");
show("here:", await sandbox.get("total"), "| in the fork:", await fork.get("total"));
