"""Host functions of your own, sync and async, that the model's code calls as if they were plain Python.

They run outside the sandbox with your files, keys and network; what `FunctionError` says is shown to the model.
"""

import anyio

from rlm_wasm import RLM, FunctionError, ScriptedClient

PRICES = {"bolt": 0.25, "nut": 0.10, "gear": 12.50}


def price_of(part: str) -> float:
    """The price of one part in US dollars, given its name."""
    if part not in PRICES:
        # The text of a FunctionError goes down to the cell; of any other exception, only the name of its class.
        raise FunctionError(f"no part {part!r}; there are {sorted(PRICES)}")
    return PRICES[part]


async def in_stock(part: str) -> int:
    """How many of a part there are now, given its name."""
    await anyio.sleep(0.01)  # stands for a request to your own service
    return {"bolt": 400, "nut": 900, "gear": 3}[part]


TRY = """```repl
total = sum(price_of(part) * in_stock(part) for part in ["bolt", "nut", "gears"])
```"""

MEND = """The message says what the part is called.

```repl
FINAL(sum(price_of(part) * in_stock(part) for part in ["bolt", "nut", "gear"]))
```"""


def main() -> None:
    # With a real model: RLM("gpt-5-mini", functions=...).
    rlm = RLM(ScriptedClient([TRY, MEND]), functions={"price_of": price_of, "in_stock": in_stock})
    done = rlm.completion("What are all our bolts, nuts and gears worth?")

    print("the model was told:", (done.trajectory[0].cells[0].error or "").splitlines()[-1])
    print("answer:", done.response)
    print("by hand:", 0.25 * 400 + 0.10 * 900 + 12.50 * 3)


if __name__ == "__main__":
    main()
