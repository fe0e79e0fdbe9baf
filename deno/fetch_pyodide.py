"""Brings Pyodide's runtime files into deno/pyodide/, and everything in deno/ that a run needs into the wheel.

It is hatchling's build hook for the wheel (editable ones too), and a program: `python deno/fetch_pyodide.py`. Deno's
own npm client downloads the package, so the registry, proxy and tokens of the user's .npmrc count, and deno.lock says
which bytes are right. Beside the files it writes manifest.json, from which a start and `rlm-wasm doctor` can tell a
missing or damaged file:

    {"package", "integrity" (as in deno.lock), "license", "source", "files": {name: {"bytes", "sha256"}}}

It does not know what the files are used for, needs nothing but Python 3.11 and a Deno, and is not part of the wheel.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

# What a sandbox loads; the rest of the npm package is for browsers, Node and type checkers.
RUNTIME_FILES = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
MANIFEST = "manifest.json"

# Kinds of source that a run reads from deno/; tests, this hook and notes for people stay out of the wheel.
CARRIED_SUFFIXES = frozenset({".ts", ".js", ".mjs", ".py"})
NOT_CARRIED = frozenset({Path(__file__).name})

# Seconds. The download is 6 MB; past this something hangs, and a build must end.
FETCH_DEADLINE = 600

# The only DENO_* variables that may reach the download: who is trusted on the network. Any other (a lock switch, V8
# flags, a permission prompt) is a setting for the user's own programs and could only change what is fetched.
KEPT_DENO_VARIABLES = frozenset({"DENO_CERT", "DENO_TLS_CA_STORE"})


class FetchError(Exception):
    """The runtime files are not there and could not be brought; the text says what to do."""


class LockedPackage(NamedTuple):
    """One npm package as deno.lock pins it."""

    name: str
    version: str
    integrity: str

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


def read_lock(path: Path) -> LockedPackage:
    """Return what the Deno lock file at `path` says about Pyodide; raises FetchError if it says nothing."""
    try:
        lock = json.loads(path.read_text("utf-8"))
        version = next(v for k, v in lock["specifiers"].items() if k.startswith("npm:pyodide@"))
        return LockedPackage("pyodide", version, lock["npm"][f"pyodide@{version}"]["integrity"])
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise FetchError(f"{path} does not pin the npm package pyodide ({type(error).__name__}: {error})") from error


def find_faults(folder: Path, package: LockedPackage) -> list[str]:
    """Return what keeps `folder` from being complete and of the locked version, one clause each; [] if nothing does."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        integrity = manifest["integrity"]
        listed = manifest["files"]
        entries = {name: (listed[name]["bytes"], listed[name]["sha256"]) for name in RUNTIME_FILES}
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{MANIFEST} is missing or cannot be read"]
    if integrity != package.integrity:
        return [f"the files are not those of {package.label}, which deno.lock asks for"]
    faults: list[str] = []
    for name, expected in entries.items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif measure(path) != expected:
            faults.append(f"{name} is damaged")
    return faults


def measure(path: Path) -> tuple[int, str]:
    """Return the size of a file in bytes and its SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def find_deno() -> Path:
    """Return a Deno: RLM_WASM_DENO, the `deno` package of this Python, or PATH; raises FetchError if there is none.

    The package's own `find_deno_bin()` looks where the running environment keeps its scripts; pip builds in an overlay
    that has another such place, so the package's list of installed files is asked instead.
    """
    if chosen := os.environ.get("RLM_WASM_DENO"):
        return Path(chosen)
    try:
        installed = metadata.files("deno") or []
    except metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        path = Path(str(file.locate()))
        if file.name in {"deno", "deno.exe"} and path.is_file():
            return path
    if on_path := shutil.which("deno"):
        return Path(on_path)
    raise FetchError('Pyodide is fetched by Deno, and there is none: run `pip install "deno>=2.9,<3"` and try again')


def make_environment(scratch: Path) -> dict[str, str]:
    """Return the variables for the download.

    Most are passed on, because proxies, HOME and the tokens that an .npmrc may name are all found there.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DENO_") or k in KEPT_DENO_VARIABLES}
    kept.pop("NODE_OPTIONS", None)
    # Certificates of the system as well as Deno's own: behind a company's proxy pip works with them, and so must this.
    kept.setdefault("DENO_TLS_CA_STORE", "system,mozilla")
    # A cache of its own: Deno checks the integrity of what it downloads, not of what its cache holds (measured with
    # 2.9.8: a file changed there is installed without a word). So the user's cache is not used, even offline.
    return kept | {
        "DENO_DIR": str(scratch / "cache"),
        "DENO_NO_PACKAGE_JSON": "1",
        "DENO_NO_UPDATE_CHECK": "1",
        "DENO_NO_PROMPT": "1",
        "NO_COLOR": "1",
    }


def download(deno: Path, root: Path, scratch: Path) -> Path:
    """Let Deno install what `root`/deno.lock pins below `scratch`; return the folder of the npm package pyodide.

    Deno runs no install script of a package unless told to. A node_modules folder is used because its layout is public;
    that of Deno's cache is not, and has the registry's name in it.
    """
    for name in ("deno.json", "deno.lock"):
        shutil.copyfile(root / name, scratch / name)
    command = [str(deno), "install", "--frozen", "--node-modules-dir=auto", "--quiet"]
    try:
        finished = subprocess.run(
            command,
            cwd=scratch,
            env=make_environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=FETCH_DEADLINE,
            check=False,
        )
    except OSError as error:
        raise FetchError(f"{deno} cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"Deno's download did not end within {FETCH_DEADLINE} seconds") from error
    if finished.returncode != 0:
        said = finished.stdout.decode("utf-8", "replace").partition("Stack backtrace:")[0].strip()
        raise FetchError(f"Deno's download failed (exit code {finished.returncode}):\n\n{said}")
    return scratch / "node_modules" / "pyodide"


def place(source: Path, target: Path) -> None:
    """Copy a file so that `target` is at no moment a part of it: two builds may share a checkout."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as part:
        shutil.copyfileobj(source.open("rb"), part)
    os.chmod(part.name, 0o644)  # a temporary file is its owner's alone, an installed one is everybody's
    os.replace(part.name, target)


def fetch(deno: Path, root: Path, package: LockedPackage) -> None:
    """Download `package` and fill `root`/deno/pyodide, the manifest last: without it the folder does not count."""
    folder = root / "deno" / "pyodide"
    with tempfile.TemporaryDirectory(prefix="rlm_wasm-fetch-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        source = download(deno, root, scratch)
        absent = [name for name in RUNTIME_FILES if not (source / name).is_file() or not (source / name).stat().st_size]
        if absent:
            raise FetchError(f"{package.label} does not hold {', '.join(absent)}, or holds nothing in it")
        about = json.loads((source / "package.json").read_text("utf-8"))
        files = {name: dict(zip(("bytes", "sha256"), measure(source / name), strict=True)) for name in RUNTIME_FILES}
        manifest = {
            "package": package.label,
            "integrity": package.integrity,
            "license": about["license"],
            "source": about["repository"]["url"],
            "files": files,
        }
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for runtime_file in RUNTIME_FILES:
            place(source / runtime_file, folder / runtime_file)
        place(scratch / MANIFEST, folder / MANIFEST)


def ensure(root: Path) -> str:
    """Make `root`/deno/pyodide complete; return a sentence that says what was done. Does nothing if it already is."""
    folder = root / "deno" / "pyodide"
    package = read_lock(root / "deno.lock")
    faults = find_faults(folder, package)
    if not faults:
        return f"{folder}: {package.label} is complete"
    deno = find_deno()
    try:
        fetch(deno, root, package)
    except (FetchError, OSError) as error:
        raise FetchError(explain(error, folder, package, faults)) from error
    if faults := find_faults(folder, package):
        raise FetchError(f"{folder} was written and is still not right: {'; '.join(faults)}")
    return f"{folder}: fetched {package.label}"


def explain(error: Exception, folder: Path, package: LockedPackage, faults: list[str]) -> str:
    """Return the whole message for a person whose build has just stopped."""
    return (
        f"rlm_wasm needs the runtime files of {package.label} in {folder} ({'; '.join(faults)}), "
        f"and could not fetch them: {error}\n\n"
        "What to do:\n"
        "- With a network: try again. A mirror of the npm registry is taken from `registry=` in ~/.npmrc or from the\n"
        "  variable NPM_CONFIG_REGISTRY, a proxy from HTTPS_PROXY, a certificate from DENO_CERT.\n"
        f"- Without one: copy a complete deno/pyodide folder, {MANIFEST} with it, from a checkout whose deno.lock is\n"
        "  the same, or install a wheel of rlm_wasm, which carries the files.\n"
        "- If Deno said that a checksum did not match, the registry served something else than what was locked: do\n"
        "  not go round that."
    )


def carried(deno_folder: Path) -> list[Path]:
    """Return the files of `deno_folder` that a run needs, relative to it, sorted."""
    sources = [
        path.relative_to(deno_folder)
        for path in deno_folder.rglob("*")
        if path.is_file() and path.suffix in CARRIED_SUFFIXES and path.name not in NOT_CARRIED
    ]
    runtime = [Path("pyodide") / name for name in (*RUNTIME_FILES, MANIFEST)]
    own = [p for p in sources if p.parts[0] != "pyodide" and not p.stem.endswith(("_test", "_bench"))]
    return sorted([*own, *runtime])


def get_build_hook() -> type:
    """Hand hatchling its hook, by the name it asks for; it is imported in here because only a build needs it."""
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class PyodideBuildHook(BuildHookInterface[Any]):
        """An editable install gets the files in its checkout, a wheel gets them inside rlm_wasm/_deno/."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            root = Path(self.root)
            try:
                self.app.display_info(ensure(root))
            except FetchError as error:
                self.app.abort(str(error))  # the message alone: a traceback through the build back end helps nobody
            if version == "editable":
                return  # the package then reads <checkout>/deno
            for path in carried(root / "deno"):
                build_data["force_include"][str(root / "deno" / path)] = f"rlm_wasm/_deno/{path.as_posix()}"

    return PyodideBuildHook


def main() -> int:
    """Run by hand: fetch into the checkout that this file is in."""
    try:
        print(ensure(Path(__file__).resolve().parent.parent))
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
