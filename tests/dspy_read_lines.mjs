// Stands in for the one function that DSPy's runner takes from deno.land/std, where that cannot be reached.

export async function* readLines(reader) {
  const buffer = new Uint8Array(65536), decoder = new TextDecoder();
  let rest = "";
  for (let count; (count = await reader.read(buffer)) !== null;) {
    const lines = (rest + decoder.decode(buffer.subarray(0, count), { stream: true })).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}
