// Highlights Python: one pass over the text, whatever it is. What is not understood is plain.
// deno-lint-ignore-file no-unused-vars -- the scripts of a page share what they declare
"use strict";

const KEYWORDS = new Set(
  ("False None True and as assert async await break case class continue def del elif else except finally for from " +
    "global if import in is lambda match nonlocal not or pass raise return try while with yield").split(" "),
);
const BRIDGE = new Set(
  ("FINAL FINAL_VAR SHOW_VARS SUBMIT answer ask ask_chunks batch_llm_query budget cite context ctx llm_batch llm_query " +
    "llm_query_batched llm_query_json rlm_query rlm_query_batched outputs history").split(" "),
);
const WORD = /[\p{L}_][\p{L}\p{N}_]*/uy;
const NUMBER =
  /(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?j?|\.\d[\d_]*(?:[eE][+-]?\d+)?j?)/y;
const PREFIX = /^(?:[rbuft]|rb|br|rf|fr|rt|tr)$/i;

// The tokens of a text as [kind, from, to]; they do not overlap, and what lies between them is plain.
function* pythonTokens(text) {
  let at = 0, defines = false;
  while (at < text.length) {
    const character = text[at];
    let to = at + 1, kind = null;
    if (character === "#") {
      to = endOfLine(text, at);
      kind = "comment";
    } else if (character === '"' || character === "'") {
      to = endOfString(text, at);
      kind = "string";
    } else if (character === "@" && /(?:^|\n)[ \t]*$/.test(text.slice(Math.max(0, at - 80), at))) {
      to = Math.max(to, lastOf(WORD, text, at + 1));
      kind = "function";
    } else {
      const word = lastOf(WORD, text, at);
      if (word > at) {
        const name = text.slice(at, word);
        to = word;
        if ((text[word] === '"' || text[word] === "'") && PREFIX.test(name)) {
          to = endOfString(text, word);
          kind = "string";
        } else if (KEYWORDS.has(name)) kind = "keyword";
        else if (defines) kind = "function";
        else if (BRIDGE.has(name)) kind = "bridge";
        defines = name === "def" || name === "class";
      } else if (/[\d.]/.test(character)) {
        to = Math.max(to, lastOf(NUMBER, text, at));
        if (to > at + 1 || character !== ".") kind = "number";
      }
    }
    if (kind) yield [kind, at, to];
    at = to;
  }
}

function lastOf(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
}

function endOfLine(text, at) {
  const end = text.indexOf("\n", at);
  return end < 0 ? text.length : end;
}

function endOfString(text, at) {
  const quote = text[at];
  const triple = text.startsWith(quote.repeat(3), at);
  const end = triple ? quote.repeat(3) : quote;
  for (let place = at + end.length; place < text.length; place++) {
    if (text[place] === "\\") {
      place++; // in a raw string too, a quote after it does not end it
    } else if (text.startsWith(end, place)) return place + end.length;
    else if (text[place] === "\n" && !triple) return place;
  }
  return text.length;
}

function putPython(parent, text) {
  let from = 0;
  for (const [kind, start, end] of pythonTokens(text)) {
    put(parent, text.slice(from, start));
    parent.append(put(make("span", { class: `py-${kind}` }), text.slice(start, end)));
    from = end;
  }
  put(parent, text.slice(from));
  return parent;
}
