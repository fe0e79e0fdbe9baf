"""What the host has chosen for the equipment beside it. The host may write this module anew, with other values."""

from __future__ import annotations

__all__: list[str] = []

SEPARATOR = "\n\n"
"""What stands between two documents in the text of all of them."""

PARALLEL = 1
"""0 if batches that do not say otherwise are asked one by one."""

SUB_MODEL = ""
"""The name of the model that calls go to where they are made children; "" for that of the parent."""

FINAL_VARIABLE = ""
"""The name of the variable that is the answer once it is set."""

AT_LEAST = 1
"""How many characters the answer in that variable must have as text, so as not to end on a beginning."""

NO_ANSWERS: list[str] = []
"""Regular expressions: a variable whose text one of them is found in holds no answer."""

SHRINK_FROM = 5000
"""How many characters a child's context has from which on it must be much less than its parent's, in fast-rlm."""

SHRINK_TO_PERCENT = 60
"""How much of its parent's context that is at most; a child that is to get more has to be asked for twice."""
