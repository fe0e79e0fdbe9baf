"""`await` around calls that are plain here: how a cell is rewritten so that what models write works, and overlaps.

Knows nothing of how a cell runs. The two functions that the rewritten code calls are put among the builtins.
"""

# Two names are added to the builtins, and a visitor serves three kinds of node.
# pyright: reportAttributeAccessIssue=false, reportAssignmentType=false

import ast
import asyncio
import builtins
import inspect


class Awaits(ast.NodeTransformer):
    """Lets `await`, and what gathers awaitables, stand around calls that are plain here: models write both.

    `await x` becomes `await __awaitable__(x)`. A host function's call that is awaited, or stands in the arguments of
    `gather(...)` and its like, becomes `__later__(function, ...)`: a task in a thread of its own, so that they overlap.
    """

    GATHERERS = frozenset({"gather", "create_task", "ensure_future", "wait", "wait_for", "as_completed"})

    def __init__(self, tree, host_functions):
        self.host_functions = host_functions
        # only where need be: a visitor recurses, and a sum of 700 terms is a tree of that depth
        self.needed = any(isinstance(node, (ast.Await, ast.AsyncFunctionDef)) for node in ast.walk(tree))
        # the names that are unpacked into a gatherer: what is assigned to them is meant to run together
        self.gathered = {
            star.value.id
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and self.gathers(call)
            for star in [*call.args]
            if isinstance(star, ast.Starred) and isinstance(star.value, ast.Name)
        }
        self.inside = False

    def rewritten(self, tree):
        """`tree`, or what to run in its place."""
        return ast.fix_missing_locations(self.visit(tree)) if self.needed else tree

    def gathers(self, call):
        return isinstance(call.func, ast.Attribute) and call.func.attr in self.GATHERERS

    def visit_within(self, node, inside):
        outer, self.inside = self.inside, inside
        self.generic_visit(node)
        self.inside = outer
        return node

    def visit_Await(self, node):
        called = isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name)
        self.visit_within(node, called)
        node.value = wrapped("__awaitable__", node.value)
        return node

    def visit_Assign(self, node):
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        return self.visit_within(node, bool(names & self.gathered))

    def visit_Call(self, node):
        inside = self.inside
        self.visit_within(node, self.gathers(node))
        if inside and isinstance(node.func, ast.Name) and node.func.id in self.host_functions:
            function = node.func
            node.func = ast.copy_location(ast.Name("__later__", ast.Load()), function)
            node.args.insert(0, function)
        return node

    def visit_FunctionDef(self, node):
        return self.visit_within(node, False)

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef


def wrapped(name, node):
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), [node], []), node)


def later(function, *args, **kwargs):
    return asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))


async def given(value):
    return value


def awaitable(value):
    return value if inspect.isawaitable(value) else given(value)


builtins.__awaitable__ = awaitable
builtins.__later__ = later
