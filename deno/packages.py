"""Packages: what is installed beside the standard library, where Python finds it, and what a cell is told of it.

Their files are there before Python begins, or never. Knows nothing of where they came from.
"""

import importlib
import json
import os
import sys

FOLDER = "/packages"


def find():
    """Let Python look there, if there is anything."""
    if FOLDER not in sys.path and os.path.isdir(FOLDER):
        sys.path.append(FOLDER)


def import_packages(names):
    """Import modules ahead of any cell, of a JSON text of their names. One that cannot be is left to the cells."""
    find()
    for name in json.loads(names):
        try:
            importlib.import_module(name)
        except BaseException:
            continue


def reseed():
    """Draw anew what packages drew when an image was made: it would be the same in every sandbox."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def installed():
    """Names with versions, in order."""
    if FOLDER not in sys.path:
        return []
    # of each there is a folder that is called after it; importlib.metadata would take a second to be loaded
    found = [name.removesuffix(".dist-info") for name in os.listdir(FOLDER) if name.endswith(".dist-info")]
    return sorted((name.replace("-", " ", 1) for name in found), key=str.lower)


def described():
    """What there is, in a sentence for whoever has asked for what there is not."""
    names = installed()
    if not names:
        return "(no packages are installed here: there is the standard library alone)"
    return f"(installed here beside the standard library: {', '.join(names)}; no others can be had)"
