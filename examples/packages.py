"""A package in the sandbox: the host gets the wheel, checks it and hands it over; cells import it.

The wheel is made here, so that no registry is asked. One from there is named: packages=["pandas", "openpyxl"].
"""

import tempfile
import zipfile
from pathlib import Path

import anyio

from rlm_wasm import RLM, Sandbox, ScriptedClient

FILES = {
    "roman.py": """
SIGNS = [(10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]
def roman(number):
    text = ""
    for value, sign in SIGNS:
        text, number = text + sign * (number // value), number % value
    return text
""",
    "roman-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: roman\nVersion: 1.0\n",
    "roman-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: example\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "roman-1.0.dist-info/RECORD": "",
}


def wheel(folder: str) -> Path:
    """A pure wheel."""
    path = Path(folder, "roman-1.0-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return path


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        packages = [str(wheel(folder))]
        async with Sandbox(packages=packages) as sandbox:
            print("a cell:", (await sandbox.execute("from roman import roman\nroman(14)")).value)
            missing = await sandbox.execute("import pandas")
            print("not there:", (missing.error or "").splitlines()[-1])
        # With a real model: RLM("gpt-5-mini", packages=[...]); it is told which packages there are.
        rlm = RLM(
            ScriptedClient(["```repl\nfrom roman import roman\nFINAL(roman(int(context)))\n```"]), packages=packages
        )
        print("answer:", (await rlm.acompletion("What is it in Roman numerals?", context="29")).response)


if __name__ == "__main__":
    anyio.run(main)
