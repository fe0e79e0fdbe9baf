"""The nested dictionary of names and their r's (problem 2 of "Recursive Language Models", @neural_avb, 2026).

A child RLM per category asks for names and counts by code; what it builds goes from variable to variable, and never
passes through the window of the model that hands it over.
"""

from rlm_wasm import RLM, ScriptedClient

NAMES = {
    "fruits": "strawberry cherry pear mango raspberry durian grapefruit kiwi tamarind cranberry redcurrant rambutan",
    "countries": "Rwanda Brazil Greece Norway Peru Serbia Andorra Eritrea Jordan Mauritius Morocco Paraguay",
    "animals": "tiger kangaroo deer squirrel parrot lynx raccoon armadillo porcupine bear ferret hamster",
}
QUESTION = "For each of fruits, countries and animals: 12 names, and the number of r's in each, as a nested dictionary."

ROOT = """Three parts that do not need each other: a child for each, and their answers stay in a variable.

```repl
kinds = ["fruits", "countries", "animals"]
counts = rlm_query_batched([f"Name 12 {kind}, and count the r's in each. Answer with a dict." for kind in kinds])
result = dict(zip(kinds, counts))
print({kind: len(inner) for kind, inner in result.items()})
```"""

ROOT_END = """```repl
FINAL(result)
```"""

CHILD = """Names are for a language model, letters are for code.

```repl
names = llm_query("List 12 %s, one a line, nothing else.").splitlines()
FINAL({name: name.lower().count("r") for name in names})
```"""


def main() -> None:
    # With real models: RLM("gpt-5-mini", sub_model="gpt-5-nano").
    children = {f"Name 12 {kind}": CHILD % kind for kind in NAMES}
    root = ScriptedClient([ROOT, ROOT_END], children, model="root")
    sub = ScriptedClient(rules={kind: "\n".join(names.split()) for kind, names in NAMES.items()}, model="sub")
    done = RLM(root, sub_model=sub).completion(QUESTION)

    for kind, counts in done.response.items():
        print(f"{kind}: {sum(counts.values())} r's in {len(counts)} names, for example {list(counts.items())[:2]}")
    print("children:", [child.stopped_by for child in done.children])
    read = "\n".join(message.content for prompt in root.calls for message in prompt)
    known = [name for counts in done.response.values() for name in counts if name in read]
    print(f"{len(root.calls)} prompts of the root model held {len(known)} of the 36 names")


if __name__ == "__main__":
    main()
