"""Files, folders, archives and documents as a context: which are named, what each is, and what is in it.

`naming.py` finds, `reading.py` reads, `archives.py` opens, `texts.py` decodes, `documents.py` has a sandbox make text
of PDF, DOCX and HTML. Nothing is written, and nothing is read but what was named.
"""

from rlm_wasm.files.limits import FileLimits
from rlm_wasm.files.reading import Fact, Files, Read, read

__all__ = ["Fact", "FileLimits", "Files", "Read", "read"]
