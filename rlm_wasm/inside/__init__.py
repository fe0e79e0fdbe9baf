"""Equipment: modules whose source the host sends into the sandbox at the start of a run.

What stands here is plain Python of the standard library, from 3.11 on, and imports nothing of rlm_wasm: each module is
whole by itself. Inside, the names in its `__all__` become names of the REPL, and `rlm_host` gives what only the host
can do. On the host the same modules can be imported, if they do without `rlm_host`.
"""
