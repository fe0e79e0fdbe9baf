"""How code is run somewhere safe: one child process, Pyodide and a namespace, as one."""

from rlm_wasm.sandbox.checkpoint import Checkpoint
from rlm_wasm.sandbox.pool import SandboxPool
from rlm_wasm.sandbox.sandbox import Executed, Sandbox
from rlm_wasm.sandbox.session import Isolation, SandboxOptions

__all__ = ["Checkpoint", "Executed", "Isolation", "Sandbox", "SandboxOptions", "SandboxPool"]
