"""Packages for the sandbox: wheels that the host has got, checked and unpacked, and that no sandbox ever fetches.

`shelf.py` is what others use; it knows the cache. `resolving.py` finds wheels, `wheels.py` reads one, `archive.py`
makes of several what a sandbox takes. Nothing here knows of sandboxes.
"""

from rlm_wasm.packages.shelf import Package, PackageSet, add, kept, ready, remove

__all__ = ["Package", "PackageSet", "add", "kept", "ready", "remove"]
