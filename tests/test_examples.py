"""Every file in examples/ runs as a reader would run it: offline, without a key, from a folder that is not its own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rlm_wasm

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))

# Name of the example -> what it must print, among other things.
EXPECTED: dict[str, list[str]] = {
    "branch": [
        "the largest: Bion\nrows: [['Bion', ",
        "the smallest: Cosmos after 3 iterations",
        "voted: Bion of ['Ariel', 'Bion', 'Bion']",
    ],
    "tables": ["turtle: ", "inspect: "],
    "packages": [
        "a cell: XIV",
        "not there: (installed here beside the standard library: roman 1.0; no others can be had)",
        "answer: XXIX",
    ],
    "checkpoints": [
        "taken: Counter, context, line, lines, words\n",
        "words: [('the', 3)]\nthe generator goes on: the second line\n",
        "changed in one: 0\nand not in the other: 3\n",
        "both go on from there: and the third | and the third\n",
    ],
    "large_corpus": [
        "printed: 20000000000 'launch 1: revenue 12\\n'\n",
        "10000000001: launch 2: revenue 47\n19000000001: launch 3: 31\n",
        "print(context): ValueError: the context has 20,000,000,000 bytes and stays outside: it cannot be",
        "answer: {'launch': 'launch 2', 'bytes': 20000000000, 'there': 'launch 2: revenue 47'}",
    ],
    "limits": [
        "4 calls left for 10 lines",
        "['1', '2', '3', '4', None, None, None, None, None, None]",
        "stopped by: calls",
        "limit: limit reached: calls (4 used of 4 allowed)",
        "best answer: [1, 2, 3, 4]",
        "calls refused: 6",
        "raised: calls | the whole run is in it: True",
    ],
    "files_and_archives": [
        "april.txt 122 text utf-16-le",
        "logo.png 10 bytes None",
        "older.zip/../outside.txt 19 unread None its path leads out of the archive\n",
        "april.txt: 1\nmarch.txt: 2\nolder.zip/2025/december.txt: 0\n",
    ],
    "files_by_mcp": [
        "tools: ask, cancel, list_files, load",
        "files: ['2024.txt', '2025.txt']",
        "progress: ",
        "answer: {'2024.txt': 12, '2025.txt': 7} stopped by final",
    ],
    "many_documents": [
        "300 documents, 3 asked about",
        "note-017.txt: angry\nnote-120.txt: calm\nnote-256.txt: angry\n",
        "root model: 2 calls",
        "sub model: 3 calls",
    ],
    "many_questions": [
        "answered at first: 2\n",
        "How many words are there? answered: 16000 (from the file)\n",
        "How many letters has the longest word? answered: 6 (from the file)\n",
        "Is there a box? answered: True\n",
        "How many jugs are there? answered: 2\n",
        "failure? failed: the provider refuses to be asked this\nlines in the file: 5\n",
    ],
    "nested_dictionary": [
        "fruits: 20 r's in 12 names, for example [('strawberry', 3), ('cherry', 2)]",
        "countries: 14 r's in 12 names",
        "animals: 14 r's in 12 names",
        "children: ['final', 'final', 'final']",
        "5 prompts of the root model held 0 of the 36 names",
    ],
    "own_functions": [
        "the model was told: FunctionError: price_of: no part 'gears'; there are ['bolt', 'gear', 'nut']",
        "answer: 227.5",
        "by hand: 227.5",
    ],
    "quickstart": [
        "iteration 1 printed: 956,671 characters, the first line is 'launch 00000: revenue 0 USD'",
        "answer: {'launch': 5367, 'usd': 100001, 'read': 30000}",
        "stopped by: final",
        "without a model: 5367 100001",
        "the text has 956,671",
    ],
    "sandbox_alone": [
        "stdout: 4 words",
        "value of the last line: 8",
        "error: IndexError: list index out of range | stdout: before",
        "timed out: True | kept all the same: True",
        "files of the host: FileNotFoundError",
        "network: none",
        "first: one",
        "counts: {'one': 1, 'two': 2, 'three': 1}",
    ],
    "session": [
        "launches: 3\nlargest: Ariane\n",
        "asked before: Which has the largest revenue? -> Ariane\n",
        "all together: 254 | printed: How many launches are there?\n",
    ],
    "search_index": [
        "first: 200 files were read\nagain: 1 changed, 1 gone\n",
        "answer: Note 117: the contract was signed on Monday.\n",
    ],
    "served": ["short: Hello to you.", "long: It jammed 1000 times."],
    "several_questions": [
        "How many words are there? 16000, after 1 replies and 1 calls",
        "Which word is the longest? liquor, after 2 replies and 2 calls",
        "What is to be packed? jugs, after 1 replies and 2 calls",
        "all together: 5 calls",
    ],
    "threads": [
        "answers in order: ['LINE 0', 'LINE 1', 'LINE 2', 'LINE 3', 'LINE 4', 'LINE 5', 'LINE 6', 'LINE 7']",
        "calls that waited at the same time: 8",
    ],
    "traces": [
        "asked: In capitals: one\n",
        "printed: one -> ONE\n",
        "stopped by: cancelled\nfrom the trace: What is it in capitals? stopped by cancelled\n",
        "call 1: ONE\ncall 2: TWO\n",
    ],
    "typed_output": [
        "sent back: FINAL was not accepted: Expected `int`, got `str` - at `$[0].year`",
        "Ariane 5: 1996, 180.0 million",
        "the cheapest: Launch(name='Electron', year=2017, price=7.5)",
    ],
    "watching": [
        "run: What does the text say?",
        "rlm_query: Turn this around.\n    run: Turn this around.",
        "    stopped by final, 1 calls\nanswered: hello\n",
        "llm_query: In capitals: world\nanswered: WORLD\n",
        "printed: ['hello', 'WORLD'], error: None",
        "\nstopped by final, 4 calls",
    ],
}

# Seconds. An example takes about one; the first of a session also makes the memory image.
PATIENCE = 100

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)


def environment() -> dict[str, str]:
    """This process's environment without any key, and with the rlm_wasm under test, installed or not."""
    kept = {name: value for name, value in os.environ.items() if "API_KEY" not in name and "OPENAI" not in name}
    return {**kept, "PYTHONPATH": str(Path(rlm_wasm.__file__).parent.parent), "PYTHONUTF8": "1"}


def test_the_table_has_every_example_and_no_other() -> None:
    assert [example.stem for example in EXAMPLES] == sorted(EXPECTED)


@each_example
def test_an_example_runs_anywhere_and_prints_what_it_shows(example: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    missing = [words for words in EXPECTED[example.stem] if words not in ran.stdout]
    assert not missing, ran.stdout
    assert list(tmp_path.iterdir()) == []


@each_example
def test_an_example_is_short_and_says_what_it_shows(example: Path) -> None:
    text = example.read_text("utf-8")
    assert len(text.splitlines()) < 60
    assert ast.get_docstring(ast.parse(text))
    assert 'if __name__ == "__main__":' in text
    assert "ScriptedClient" not in text or "With a real model" in text or "With real models" in text
