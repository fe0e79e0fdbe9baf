"""An answer of the type you ask for: msgspec holds FINAL's value to it before the run may end.

A value that does not fit goes back to the model, with the place and the reason, and every variable is kept.
"""

from msgspec import Struct

from rlm_wasm import RLM, ScriptedClient

TEXT = "Falcon 1, 2008, 7.9 million. Ariane 5, 1996, 180 million. Electron, 2017, 7.5 million."


class Launch(Struct):
    """One rocket: its name, the year of its first launch, the price of a launch in million US dollars."""

    name: str
    year: int
    price: float


FIRST = """```repl
rows = [part.strip().rstrip(".").split(", ") for part in context.split("million")[:-1]]
rows = [[cell.strip(". ") for cell in row] for row in rows]
FINAL([{"name": name, "year": year, "price": price} for name, year, price in rows])
```"""

SECOND = """The year was still text. `rows` is kept, so only the types need mending.

```repl
FINAL([{"name": name, "year": int(year), "price": float(price)} for name, year, price in rows])
```"""


def main() -> None:
    # With a real model: RLM("gpt-5-mini"); it is shown the JSON Schema of list[Launch].
    rlm = RLM(ScriptedClient([FIRST, SECOND]))
    done = rlm.completion("List the launches in the text.", context=TEXT, output=list[Launch])

    print("sent back:", (done.trajectory[0].observation or "").splitlines()[-1])
    for launch in done.response:
        print(f"{launch.name}: {launch.year}, {launch.price} million")
    cheapest = min(done.response, key=lambda launch: launch.price)
    print("the cheapest:", cheapest)


if __name__ == "__main__":
    main()
