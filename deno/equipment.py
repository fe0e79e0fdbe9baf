"""Equipment: Python of the host's own that is run in the sandbox before any cell, and what it may import.

Knows the REPL's names, and nothing of how a cell runs.
"""

import importlib
import importlib.abc
import importlib.machinery
import json
import linecache
import sys
from types import ModuleType

from rlm_names import given, namespace, protected, reserve, user_names
from rlm_tracebacks import class_name
from rlm_values import well_formed

# Python that the host has sent, by the name of the module
library = {}
# what equipment has asked for: functions to be called after each cell
after_cell = []


class Host(ModuleType):
    """What equipment imports: the host's functions as they are, and what it needs of the REPL."""

    def __init__(self, final):
        super().__init__("rlm_host")
        self.FINAL = final
        self.user_names = user_names

    def namespace(self):
        """The globals of cells."""
        return namespace

    def after_cell(self, function):
        """Call `function()` after each cell. Can be used as a decorator."""
        after_cell.append(function)
        return function

    def protect(self, name):
        """Put this variable back after any cell that has overwritten it."""
        protected[name] = namespace[name]


def equip(name):
    """Do what a JSON text that was loaded says: keep `library`, modules that can be imported, and run `modules`.

    Both are `[[name, source], ...]`; the names in the `__all__` of those that are run become names of the REPL. True,
    or why it could not be done.
    """
    before = set(namespace)
    try:
        wanted = json.loads(namespace.pop(name))
        library.update(wanted["library"])
        library.update(wanted["modules"])
        for module_name, _ in wanted["modules"]:
            sys.modules.pop(module_name, None)
            module = importlib.import_module(module_name)
            for public in module.__all__:
                reserve(public, getattr(module, public))
        given.update({name: value for name, value in namespace.items() if name not in before})
    except BaseException as exception:
        return well_formed(f"{class_name(exception)}: {exception}")[:1000]
    return True


class Library(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and runs the modules that the host has sent, as the import system wants it."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name in library else None

    def exec_module(self, module):
        source, filename = library[module.__name__], f"<{module.__name__}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)
