"""`rlm-wasm packages`, and `--packages`: what goes to stdout, what is said, and the exit codes. Nothing is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlm_wasm import RLM, SandboxOptions, ScriptedClient, cli
from rlm_wasm.cli.settings import packages
from rlm_wasm.packages import shelf
from rlm_wasm.trace.replay import replay
from tests.wheels import make_wheel


@pytest.fixture(autouse=True)
def wheels(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that need nothing; the cache is the test's own."""
    monkeypatch.setattr(shelf, "_loaded", {})
    folder = tmp_path / "wheels"
    for name in ("one", "two"):
        make_wheel(folder, name)
    return folder


def test_packages_are_added_listed_and_removed(wheels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (str(wheels / f"{name}-1.0-py3-none-any.whl") for name in ("one", "two"))
    assert cli.main(["packages", "add", one, two]) == 0
    assert cli.main(["packages", "add", two]) == 0
    assert capsys.readouterr().out == f"{one},{two}: one 1.0, two 1.0\n{two}: two 1.0\n"
    assert cli.main(["packages", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["list"]
    assert [[package["name"] for package in each["packages"]] for each in listed] == [["one", "two"], ["two"]]
    assert cli.main(["packages", "remove", "one"]) == 0
    assert cli.main(["packages", "list"]) == 0
    assert capsys.readouterr().out == f"{one},{two}: one 1.0, two 1.0\n{two}: two 1.0\n"


def test_what_cannot_be_had_or_is_not_there_is_said_in_one_line(
    wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = make_wheel(wheels, "three", tag="cp314-cp314-win_amd64")
    assert cli.main(["packages", "add", str(wrong)]) == 1
    assert cli.main(["packages", "remove", "four"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(
        "rlm-wasm: three-1.0-cp314-cp314-win_amd64.whl is for another platform or Python (win_amd64)"
    )
    assert second == "rlm-wasm: no set of packages in the cache has four in it"


@pytest.mark.parametrize("line", [["add"], ["remove"], ["list", "one"], ["fetch", "one"]])
def test_a_line_that_makes_no_sense_is_refused(line: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["packages", *line])
    assert caught.value.code == 2


def test_a_comma_before_a_comparison_belongs_to_its_package() -> None:
    assert packages("pandas>=2,<3, openpyxl,./wheels,") == ("pandas>=2,<3", "openpyxl", "./wheels")


@pytest.mark.anyio
async def test_the_model_is_told_what_is_installed(wheels: Path) -> None:
    root = ScriptedClient(["```repl\nimport one\nFINAL(one.version)\n```"])
    wheel = wheels / "one-1.0-py3-none-any.whl"
    rlm = RLM(root, packages=[wheel], sandbox=SandboxOptions(use_image=False))
    done = await rlm.acompletion("Which version?")
    assert done.response == "1.0"
    assert "Installed beside the standard library, and nothing else: one 1.0." in root.calls[0][0].content
    # a trace may name what it likes: nothing is got because of it
    with pytest.raises(ValueError, match=r"the run had packages in its sandbox \(.*one-1.0-py3-none-any.whl\)"):
        await replay(done.trajectory.events)


def test_packages_that_are_given_twice_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="packages are given twice"):
        RLM(ScriptedClient([]), packages=["one"], sandbox=SandboxOptions(packages=("two",)))
