"""Many documents at once: code picks those that matter, and one batch asks the sub model about each of them.

The answers come back in order as plain strings in a variable, and code builds the result from them.
"""

from rlm_wasm import RLM, ScriptedClient

# A list, or a dict as here; Path("corpus/") gives such a dict from the text files of a folder.
DOCUMENTS = {f"note-{number:03}.txt": f"Note {number}. Nothing of note happened." for number in range(300)}
DOCUMENTS["note-017.txt"] = "Complaint: the parcel came late. I want my money back at once!"
DOCUMENTS["note-120.txt"] = "Complaint: the parcel came late, but your driver was very kind. Thank you."
DOCUMENTS["note-256.txt"] = "Complaint: wrong colour. This is a scandal!"

ASK = """Searching is for code, judging the tone is for a reader: I ask about the hits only, all at once.

```repl
hits = [name for name, text in context.items() if "Complaint" in text]
question = "Is the tone of this letter angry or calm? One word."
tones = llm_query_batched([f"{question}\\n\\n{context[name]}" for name in hits])
print(len(context), "documents,", len(hits), "asked about")
```"""

FINISH = """```repl
FINAL({name: tone.strip().lower() for name, tone in zip(hits, tones)})
```"""


def read_tone(prompt: str) -> str:
    """What stands in for the sub model: it is given the prompt, and answers by the look of it."""
    return "Angry" if "!" in prompt else "Calm"


def main() -> None:
    # With real models: RLM("gpt-5-mini", sub_model="gpt-5-nano").
    root = ScriptedClient([ASK, FINISH], model="root")
    sub = ScriptedClient(rules={"tone of this letter": read_tone}, model="sub")
    done = RLM(root, sub_model=sub).completion("What is the tone of each complaint?", context=DOCUMENTS)

    print(done.trajectory[0].cells[0].output.strip())
    for name, tone in done.response.items():
        print(f"{name}: {tone}")
    for name, usage in done.usage.by_model.items():
        print(f"{name} model: {usage.calls} calls, {usage.input_tokens:,} tokens in")


if __name__ == "__main__":
    main()
