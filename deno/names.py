"""The names of the REPL: which are put back when a cell has overwritten them, and which are a cell's own.

Knows nothing of what they stand for.
"""

import builtins
import itertools
import sys
from types import ModuleType

namespace = sys.modules["__main__"].__dict__
# names that are put back when a cell has overwritten them: those of the REPL, and variables that the host protects
reserved, protected = {}, {}
# put back too if a cell has taken them away: the first always, the others if they cannot be called any more
BUILTINS = ("print", "open")
CALLABLES = (
    *("all", "any", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "map", "max", "min"),
    *("range", "repr", "round", "set", "sorted", "str", "sum", "tuple", "type", "zip"),
)
real_builtins = {name: getattr(builtins, name) for name in (*BUILTINS, *CALLABLES)}
all_builtins = {}
# variables as equipment has made them: no cell's own while they are what they were
given = {}


def reserve(name, value):
    reserved[name] = value
    namespace[name] = value


def put_back():
    """Give the names that cells may not take away their values again; what they had been given is kept as `my_NAME`."""
    taken = [name for name, value in reserved.items() if namespace.get(name) is not value]
    taken += [name for name, value in protected.items() if namespace.get(name, namespace) is not value]
    # most cells have overwritten none: that is told at once
    if not real_builtins.keys().isdisjoint(namespace) or builtins.__dict__ != all_builtins:
        taken += [name for name, value in real_builtins.items() if name not in reserved and not usable(name, value)]
    for name in taken:
        if name in namespace:
            namespace[f"my_{name}"] = namespace.pop(name)
        if name in real_builtins:
            setattr(builtins, name, real_builtins[name])
        for values in (reserved, protected):
            if name in values:
                namespace[name] = values[name]
    return taken


def usable(name, real):
    found = namespace.get(name, getattr(builtins, name, None))
    return found is real or (name in CALLABLES and callable(found))


def user_names(most=sys.maxsize):
    # by its type: a value may answer for its __class__ as it likes, or raise
    names = (
        name
        for name, value in list(namespace.items())
        if type(name) is str
        and name[:1] != "_"
        and name not in reserved
        and not (name in given and value is given[name])
        and not issubclass(type(value), ModuleType)
    )
    return list(itertools.islice(names, most))
