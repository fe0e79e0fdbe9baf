"""The sandbox without any model: run Python that you do not trust, and keep its state from cell to cell.

A mistake is text and never an exception of the host; a cell that runs too long is interrupted and loses nothing.
"""

import anyio

from rlm_wasm import Sandbox


async def main() -> None:
    async with Sandbox(memory_mb=256, timeout=30) as sandbox:
        await sandbox.load(text="one two three two", weights={"one": 1, "two": 2, "three": 3})

        run = await sandbox.execute("words = text.split()\nprint(len(words), 'words')\nsum(weights[w] for w in words)")
        print("stdout:", run.stdout.splitlines()[0])
        print("value of the last line:", run.value)

        run = await sandbox.execute("first = words[0]\nprint('before')\nwords[99]")
        print("error:", (run.error or "").splitlines()[-1], "| stdout:", run.stdout.strip())

        run = await sandbox.execute("kept = 0\nwhile True: kept += 1", timeout=0.5)
        print("timed out:", run.timed_out, "| kept all the same:", (await sandbox.get("kept")) > 0)

        run = await sandbox.execute("open('/etc/passwd')")
        print("files of the host:", (run.error or "").splitlines()[-1])
        run = await sandbox.execute("import urllib.request\nurllib.request.urlopen('http://example.com')")
        print("network:", "none" if run.error else "reached")

        print("first:", await sandbox.get("first"))
        await sandbox.execute("counts = {word: words.count(word) for word in words}")
        print("counts:", await sandbox.get("counts"))


if __name__ == "__main__":
    anyio.run(main)
