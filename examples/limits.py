"""A limit that is hit in the middle of a batch: what was answered before is kept, and no call more is made.

The run ends with the best answer from what there is; `stopped_by` and `limit` say why, `raise_for_stop` insists.
"""

from rlm_wasm import RLM, LimitExceeded, Limits, ScriptedClient

ASK = """```repl
print(budget()["calls_left"], "calls left for", len(context), "lines")
try:
    lengths = llm_query_batched([f"How long is this? {line}" for line in context])
except LimitExceeded as stopped:
    lengths = stopped.partial  # in order, None where there is no answer
print(lengths)
```"""

# Asked for after the limit: one more reply, over the variables that there are.
CLOSE = """```repl
FINAL([int(length) for length in lengths if length is not None])
```"""


def main() -> None:
    # With a real model: RLM("gpt-5-mini", limits=Limits(usd=0.50, seconds=300)).
    client = ScriptedClient([ASK, CLOSE], rules={"How long is this?": lambda prompt: str(len(prompt) - 18)})
    rlm = RLM(client, limits=Limits(calls=4))
    done = rlm.completion("How long is each line?", context=["x" * number for number in range(1, 11)])

    print(done.trajectory[0].cells[0].output.strip())
    print("stopped by:", done.stopped_by)
    print("limit:", done.limit)
    print("best answer:", done.response)
    print("calls refused:", sum(call.error is not None for call in done.trajectory[0].calls))

    try:
        done.raise_for_stop()
    except LimitExceeded as error:
        print("raised:", error.limit, "| the whole run is in it:", error.partial is done)


if __name__ == "__main__":
    main()
