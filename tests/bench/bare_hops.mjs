// The hops of a cell and nothing else: stdin, the Worker, back, stdout. Each line is echoed by the Worker after it has
// worked for the microseconds that are the first argument.
const source = `self.onmessage = ({ data }) => {
  const until = performance.now() + ${Number(Deno.args[0])} / 1000;
  while (performance.now() < until);
  self.postMessage(data);
};`;
const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })), { type: "module" });
worker.onmessage = ({ data }) => Deno.stdout.writeSync(data);
const { default: net } = await import("node:net");
const stdin = new net.Socket({ fd: 0, writable: false });
stdin.on("data", (bytes) => worker.postMessage(new Uint8Array(bytes)));
stdin.on("end", () => Deno.exit(0));
