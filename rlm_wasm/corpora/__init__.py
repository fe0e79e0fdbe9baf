"""Corpora larger than memory, which stay on the host. Read `corpus.py` first."""

from __future__ import annotations

from rlm_wasm.corpora.answering import FUNCTION, answering
from rlm_wasm.corpora.corpus import Corpus, chosen, files_of, referred

__all__ = ["FUNCTION", "Corpus", "answering", "chosen", "files_of", "referred"]
