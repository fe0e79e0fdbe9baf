// Plain Pyodide in Deno, as tutorials show it, with read, net and env allowed: what the hostile suite is held against.
// Lines of JSON on stdin and stdout. The first argument is the folder of Pyodide's files.

const [folder] = Deno.args;
const { loadPyodide } = await import(`file://${folder}/pyodide.mjs`);
const pyodide = await loadPyodide({ indexURL: `${folder}/` });
const replies = new Map();
let lastId = 0;

function post(message) {
  console.log(JSON.stringify(message));
}

globalThis.post_line = (text) => console.log(text);
globalThis.host_call = (request) => {
  const id = ++lastId;
  post({ call: request, id });
  return new Promise((resolve) => replies.set(id, resolve));
};

async function run(code) {
  let output = "";
  const write = (text) => output += `${text}\n`;
  pyodide.setStdout({ batched: write });
  pyodide.setStderr({ batched: write });
  try {
    const value = await pyodide.runPythonAsync(code);
    post({ done: true, output, value: String(value), error: null });
  } catch (error) {
    post({ done: true, output, value: null, error: String(error) });
  }
}

let rest = "";
for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + chunk).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    const message = JSON.parse(line);
    if ("code" in message) run(message.code);
    else replies.get(message.id)?.(message.reply);
  }
}
