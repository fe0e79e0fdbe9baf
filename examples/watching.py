"""What happens inside a run, as it happens: a listener is any function that takes an event.

Events are small typed structs, stamped with their run, depth and iteration; here each becomes one line.
"""

from rlm_wasm import RLM, Event, ScriptedClient
from rlm_wasm.events import CallFinished, CallStarted, CellFinished, CellStarted, RootReplied, RunStarted, RunStopped

ASK = """```repl
first, second = context.split()
first = rlm_query("Turn this around.", first)
second = llm_query("In capitals: " + second)
print(first, second)
```"""

CHILD = """```repl
FINAL(context[::-1])
```"""

FINISH = """```repl
FINAL(f"{first} {second}")
```"""


def show(event: Event) -> None:
    """Print one line for an event, further right for a child."""
    match event:
        case RunStarted(question=question, context=context):
            line = f"run: {question} ({context})"
        case RootReplied(output_tokens=tokens):
            line = f"reply {event.iteration}: {tokens} tokens"
        case CellStarted(code=code):
            line = f"cell: {code.splitlines()[0]}"
        case CellFinished(output=output, error=error):
            line = f"printed: {output.split()}, error: {error}"
        case CallStarted(function=function, prompt=prompt):
            line = f"{function}: {prompt}"
        case CallFinished(reply=reply):
            line = f"answered: {reply}"
        case RunStopped(stopped_by=stopped_by, calls=calls):
            line = f"stopped by {stopped_by}, {calls} calls"
        case _:
            return
    print("    " * event.depth + line)


def main() -> None:
    # With a real model: RLM("gpt-5-mini", listeners=[show]).
    client = ScriptedClient([ASK, FINISH], rules={"Turn this": CHILD, "In capitals": "WORLD"})
    RLM(client, listeners=[show]).completion("What does the text say?", context="olleh world")


if __name__ == "__main__":
    main()
