"""A folder with an archive in it as the context: a dict from path to text, and `context_files` that says what each is.

What cannot be read is said, with the reason, and the rest is read all the same.
"""

import tempfile
import zipfile
from pathlib import Path

from rlm_wasm import RLM, FileLimits, Files, ScriptedClient

LOOK = """```repl
for file in context_files:
    print(file["path"], file["size"], file["kind"], file["encoding"], file["note"])
```"""

FINISH = """```repl
FINAL({path: text.count("late") for path, text in context.items() if isinstance(text, str)})
```"""


def fill(folder: Path) -> None:
    (folder / "march.txt").write_text("The parcel was late. The next was late too.\n", "utf-8")
    (folder / "april.txt").write_bytes("Wieder verspätet (late), schöne Grüße aus Köln über München\n".encode("utf-16"))
    (folder / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    (folder / ".env").write_text("KEY=never-shown", "utf-8")
    with zipfile.ZipFile(folder / "older.zip", "w") as archive:
        archive.writestr("2025/december.txt", "All was on time.\n")
        archive.writestr("../outside.txt", "Nobody reads this.\n")


def main() -> None:
    # With real models: RLM("gpt-5-mini", sub_model="gpt-5-nano").
    rlm = RLM(ScriptedClient([LOOK, FINISH], model="root"))
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        # Path(folder) alone does too; Files says more
        files = Files(folder, limits=FileLimits(unpacked_bytes=10_000_000))
        done = rlm.completion("How often was something late?", context=files)

    print(done.trajectory[0].cells[0].output.strip())
    for path, count in done.response.items():
        print(f"{path}: {count}")


if __name__ == "__main__":
    main()
