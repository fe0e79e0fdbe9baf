"""A model's reply -> the code to run.

Owns where code begins and ends in free text: fences, tool calls written as tags, code with nothing around it, FINAL
written outside of code. Knows nothing of messages, prompts or the sandbox. A reply is untrusted: it is read with
`ast.parse` and with regular expressions that cannot backtrack far, and is never evaluated. Nothing here raises.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import msgspec


class Parsed(msgspec.Struct, frozen=True):
    """What a reply asks for.

    `cells` are the code blocks in order, dedented and without fences, with LF between lines. `kept` is the reply as it
    should stand in the history: without a leading thought, and without what follows the last cell (often a pretended
    output); with no cells all of it, which is "" if there was only a thought. `final_text` is the answer of a reply
    that has no cell but says FINAL(...) around words that are not Python.
    """

    cells: tuple[str, ...]
    kept: str
    final_text: str | None = None


class _Block(msgspec.Struct, frozen=True):
    """Code found in a text, from `start` to `end` with its marks; `label` is what its fence says, in lower case."""

    label: str
    start: int
    end: int
    code: str


_CODE = frozenset({"repl", "python", "py", "python3", "ipython", "tool_code"})  # tool_code is what Gemini writes
_LAYOUT = frozenset({"join", "strip", "format", "dedent"})  # methods that lay text out, and compute nothing

# CPython's parser was measured to need 10 us and 2 kB a character for the worst text, and models do not write cells
# of this size: a longer text is not judged, so it is neither bare code nor a literal answer.
JUDGED_CHARS = 100_000
_MENDS = 8  # each may read the reply to its end: without a bound, broken strings could cost its length squared
_FINAL_STOPS = 20  # closing parentheses that are tried as the end of FINAL(...) before it is taken for words


def parse(reply: str, *, colon_finish: bool = False) -> Parsed:
    """Find the code in a reply. Never raises, whatever the text, and takes time about linear in its length.

    With `colon_finish` a reply that has no code may say `FINAL: answer` or `FINAL_VAR: name`.

    The first way that finds any code wins: the whole reply is Python; `repl` fences; `python` fences; bare fences that
    hold Python; tool calls written as tags; a line that begins with FINAL( or FINAL_VAR(.
    """
    body = without_thought(reply)
    if body is None:
        return Parsed(cells=(), kept=reply)
    if colon_finish and (finish := _COLON.search(body)) and not _FENCED.search(body):
        name = finish["name"]
        if finish["var"]:
            return Parsed(cells=(f"FINAL({name})",), kept=body) if name.isidentifier() else Parsed(cells=(), kept=body)
        return Parsed(cells=(), kept=body, final_text=body[finish.start("text") :].strip())
    # A reply that is Python as a whole goes first: fences in it can only stand in its strings and comments.
    if _is_program(_cell(body)):
        return Parsed(cells=(_cell(body),), kept=body)
    fences = _FenceReader(body).read()
    blocks = [fence for fence in fences if fence.label == "repl"]
    blocks = blocks or [fence for fence in fences if fence.label in _CODE]
    blocks = blocks or [fence for fence in fences if not fence.label and _is_plausible(fence.code)]
    if not blocks:
        prose = _blanked(body, [fence for fence in fences if fence.label])
        blocks = _tagged(prose)
        ending = None if blocks else _ending(prose, body)
        if isinstance(ending, str):
            return Parsed(cells=(), kept=body, final_text=ending)
        blocks = [ending] if ending else blocks
    return Parsed(cells=tuple(block.code for block in blocks), kept=body[: blocks[-1].end] if blocks else body)


def final_is_literal(code: str) -> bool:
    """Tell whether the answer that a cell gives to FINAL was written out by the model rather than computed.

    The first FINAL call at the top level decides; False if there is none, or if the code is not Python. Written out are
    constants, containers and concatenations of them, strings joined, stripped, formatted or dedented, and variables
    of this cell whose one assignment is such a literal. Arithmetic on numbers counts as computed.
    """
    tree = _python(code)
    if tree is None:
        return False
    names = Counter((n.id, isinstance(n.ctx, ast.Load)) for n in ast.walk(tree) if isinstance(n, ast.Name))
    written = {"textwrap"}  # textwrap.dedent(...)
    for node in (node for line in tree.body if isinstance(line, ast.Expr | ast.Assign) for node in ast.walk(line)):
        match node:
            case ast.Call(func=ast.Name(id="FINAL"), args=args, keywords=keywords):
                answer = [*args, *(keyword.value for keyword in keywords)]
                return bool(answer) and _is_written_out(answer, written)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if names[name, False] == 1:
                # A container that is named again may have been filled there: `rows.append(...)`.
                fillable = any(isinstance(part, ast.List | ast.Dict | ast.Set) for part in ast.walk(value))
                if (names[name, True] == 1 or not fillable) and _is_written_out([value], written):
                    written.add(name)
            case _:
                pass
    return False


# At the beginning of a line, perhaps in bold. `FINAL_VAR: name` is Python too, an annotation, and does nothing.
_COLON = re.compile(r"^[ \t*_]*FINAL(?:(?P<var>_VAR)[*_ ]*:[ \t*`]*(?P<name>\w*)|[*_ ]*:[*_]*(?P<text>))", re.MULTILINE)
_FENCED = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)

_THOUGHT = re.compile(r"(?:\s*<(think|thinking)>.*?(?:</\1>|(?P<endless>\Z)))+\s*", re.IGNORECASE | re.DOTALL)
# Some chat templates write the opening tag themselves, so that the reply holds only the closing one.
_THOUGHT_MARK = re.compile(r"^[ \t]*<(/?)think(?:ing)?>[ \t\r]*$\s*", re.IGNORECASE | re.MULTILINE)


def without_thought(reply: str) -> str | None:
    """The reply behind the thoughts that it begins with; None if a thought has no end."""
    if thought := _THOUGHT.match(reply):
        return reply[thought.end() :] if thought["endless"] is None else None
    mark = _THOUGHT_MARK.search(reply)
    return reply[mark.end() :] if mark and mark[1] else reply


# In a list or a quotation if need be; `words` are a sentence that runs into the fence.
_OPENING = re.compile(
    r"(?m)^[ \t]*+(?:(?:[-*+>]|\d{1,3}[.)])[ \t]++)*+(?P<words>[^\n]*?)(?P<ticks>`{3,}|~{3,})(?P<info>[^\n]*)$"
)
_NESTED = re.compile(r"(?:[ \t\r]*+\n)*+[ \t]*+(?P<ticks>`{3,}+|~{3,}+)(?P<info>[^\n]*+)")
_OUTER_CLOSING = re.compile(r"[ \t\r]*+\n[ \t]*+(?:`{3,}+|~{3,}+)(?=[ \t\r]*+(?:\n|\Z))")

# What matters to one who looks for the end of a cell, outside and inside of a triple-quoted string. No Python token
# has a backtick, so outside of strings and comments it always ends the cell.
_LINE = r"(?m)^[ \t]*+(?P<line>`{3,}+|~{3,}+)(?P<info>[^\n]*)"
_OUTSIDE = re.compile(
    _LINE + r"|(?P<tail>`{3,}+)(?=[ \t\r]*+$)|\#[^\n]*+|(?P<quotes>\"\"\"|''')"
    r"|\"(?:[^\"\\\n]|\\.)*+\"?|'(?:[^'\\\n]|\\.)*+'?"
)
_INSIDE = {quotes: re.compile(_LINE + rf"|\\.|(?P<close>{quotes})") for quotes in ('"""', "'''")}
_OPAQUE = re.compile(_LINE)

_SAYS_OUTPUT = re.compile(
    r"(?i)\W*(?:(?:the|this|that|it|which|here|is|its|will|would|should|expected|sample|example|actual|repl|code|cell"
    r"|python|execution)\W+)*+(?:outputs?|results?|stdout|observations?|prints?|returns?)\b(?:[^:]{0,40}:\W*|\W*)"
)


class _FenceReader:
    """Reads the fences of one text, in order."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._mends_left = _MENDS

    def read(self) -> list[_Block]:
        """All fences that hold anything; a bare one that pretends to be the output of code is labelled "output"."""
        fences: list[_Block] = []
        position = 0
        while opening := _OPENING.search(self._text, position):
            fence = self._fence(opening)
            position = fence.end if fence else opening.end()
            if not fence or not fence.code.strip():
                continue
            before = self._text[fences[-1].end if fences else 0 : fence.start].rstrip()
            announced = _SAYS_OUTPUT.fullmatch(before[-120:].rpartition("\n")[2])
            if not fence.label and (announced or (fences and not before)):
                fence = msgspec.structs.replace(fence, label="output")
            fences.append(fence)
        return fences

    def _fence(self, opening: re.Match[str]) -> _Block | None:
        label, rest = _label(opening["info"])
        quoted = opening["ticks"][0] == "`" and "`" in opening["info"]
        if quoted or (opening["words"] and (rest or label not in _CODE)):
            return None
        start = min(opening.end() + 1, len(self._text))
        depth, inner = 0, opening
        opaque = label not in _CODE | {""}
        while not opaque and (nested := _NESTED.match(self._text, start)) and _label(nested["info"])[0] in _CODE:
            depth, inner, label = depth + 1, nested, label or _label(nested["info"])[0]
            start = min(nested.end() + 1, len(self._text))
        stop, end = self._closing(start, inner["ticks"], opaque=opaque)
        while depth and (outer := _OUTER_CLOSING.match(self._text, end)):
            depth, end = depth - 1, outer.end()
        return _Block(label, opening.start(), end, _cell(self._text[start:stop]))

    def _closing(self, start: int, ticks: str, *, opaque: bool) -> tuple[int, int]:
        """Where the content that begins at `start` stops, and where its fence ends.

        A fence line inside a triple-quoted string closes only if reading on gives no code that parses: then it was
        the string that was left open. An opaque fence, of another language, is read by the letter of CommonMark.
        """
        first: tuple[int, int] | None = None
        stop = end = len(self._text)
        for line, quoted in _fence_lines(self._text, start, _OPAQUE if opaque else _OUTSIDE):
            closes = _end_at(line, ticks, opaque=opaque)
            if closes is None or (quoted and closes == line.start()):
                continue
            if not quoted or not self._mends_left:
                stop, end = line.start(), closes
                break
            first = first or (line.start(), closes)
        if first and _python(_cell(self._text[start:stop])) is None:
            self._mends_left -= 1
            return first
        return stop, end


def _fence_lines(text: str, start: int, scan: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bool]]:
    """Every run of backticks or tildes that could end a fence, and whether it is inside a triple-quoted string."""
    position, outside = start, scan
    while found := scan.search(text, position):
        kind = found.lastgroup
        if kind in ("info", "tail"):
            yield found, scan is not outside
        position = found.end("line" if kind == "info" else 0)
        scan = _INSIDE[found.group()] if kind == "quotes" else outside if kind == "close" else scan


def _end_at(line: re.Match[str], ticks: str, *, opaque: bool) -> int | None:
    """Where a fence ends that this line closes: before the line if it opens another; None if it does not close."""
    if line.lastgroup == "tail":
        return line.end() if ticks[0] == "`" else None
    label, rest = _label(line["info"])
    if line["line"][0] != ticks[0] or (label and (opaque or "`" in line["info"])):
        return None
    if label in _CODE or (not rest and re.fullmatch(r"[\w+#.-]+", label)):
        return line.start()
    return line.end("line") if len(line["line"]) >= len(ticks) else None


def _label(info: str) -> tuple[str, str]:
    """The language that a fence's line names, in lower case, and what else the line holds."""
    words = [*info.split(None, 1), "", ""]
    return words[0].lower().strip("{}.,:;"), words[1].rstrip()


# The last three are also words of HTML and of prose: they count only at the beginning of a line.
_TAG = re.compile(
    r"(?im)(?:<(?=tool_|run_python|(?:\w+:)?parameter\W+(?:name\s*=\W*)?code\b)|^[ \t]*<(?=python|code|execute))"
    r"(?:\w+:)?(?P<name>tool_call|run_python|tool_code|parameter|python|code|execute)\b[^<>\n]*>(?=\s*(?P<first>\S|\Z))"
)
_JSON = json.JSONDecoder(strict=False)  # models write raw line ends into JSON strings


def _tagged(text: str) -> list[_Block]:
    """The code of every tool call that is written as XML, in order."""
    blocks: list[_Block] = []
    position = 0
    while opening := _TAG.search(text, position):
        name, is_json, position = opening["name"].lower(), opening["first"] == "{", opening.end()
        if opening["first"] == "<" or (name == "tool_call" and not is_json):
            continue  # a wrapper: what it wraps is found next
        # With the tags around it closed, so that what is kept is well-formed.
        closing = re.compile(rf"</(?:\w+:)?{name}\s*>(?:\s*</[\w:]+>)*", re.IGNORECASE).search(text, position)
        content = text[position : closing.start() if closing else len(text)]
        position = closing.end() if closing else len(text)
        code = _code_of_call(content) if is_json else None
        code = _unwrapped(content if code is None and name != "tool_call" else code or "")
        if code and (name != "code" or _is_plausible(code)):
            blocks.append(_Block(name, opening.start(), position, code))
    return blocks


def _code_of_call(content: str) -> str | None:
    """The code argument of a tool call written as JSON; what follows the JSON is not looked at."""
    try:
        call: object = _JSON.raw_decode(content.lstrip())[0]
    except (ValueError, RecursionError):
        return None
    match call:
        case {"code": str(code)} | {"arguments": {"code": str(code)}} | {"parameters": {"code": str(code)}}:
            return code
        case {"arguments": str(arguments)}:
            return _code_of_call(arguments)
        case _:
            return None


def _unwrapped(code: str) -> str:
    """Code out of a tool call, without the blank lines and the fences that models put around it there."""
    code = code.strip("\r\n")
    if code.lstrip().startswith(("```", "~~~")):
        code = "\n".join(fence.code for fence in _FenceReader(code).read() if fence.label in _CODE | {""})
    return _cell(code).rstrip()


_FINAL = re.compile(r"^[ \t*_`]*FINAL(?:_VAR\(\s*([\"'`]?)(?P<name>\w+)\1\s*\)|(?P<var>_VAR)?\()", re.MULTILINE)
_STOP = re.compile(r"\)(?=[ \t*_`.;\r]*+$)", re.MULTILINE)


def _ending(prose: str, body: str) -> _Block | str | None:
    """What FINAL(...) means in a reply without code: a cell, an answer in words, or nothing.

    `prose` is `body` with what cannot hold a FINAL blanked out.
    """
    opening = _FINAL.search(prose)
    if not opening:
        return None
    if opening["name"] and opening["name"].isidentifier():
        return _Block("", opening.start(), opening.end(), f"FINAL({opening['name']})")
    start = body.index("(", opening.start()) + 1
    stops = [stop.end() for stop in _STOP.finditer(body, start)] or [body.rfind(")", start) + 1 or len(body) + 1]
    for stop in stops[:_FINAL_STOPS]:
        code = _cell(f"FINAL({body[start:stop]}")
        if _python(code):
            return _Block("", opening.start(), stop, code)
    if opening["var"] or opening["name"]:
        return None
    depth, counted = 1, start
    for stop in stops:
        depth += body.count("(", counted, stop) - body.count(")", counted, stop)
        counted = stop
        if depth <= 0:
            break
    return body[start : counted - 1].strip()


MAGIC = re.compile(r"^([ \t]*)(?:%%?[a-z]|![a-z./~]|\?*[\w.]+\?{1,2}[ \t]*$).*|(=[ \t]*)[!%][a-z].*", re.M | re.I)
# The first line of Python that has a slip further on, such as a string left open.
_SLIP = re.compile(
    r"(?i)(?:async )?(?:import [\w.]+(?: as \w+)?$|from [\w.]+ import\b|def \w+\(|class \w+.*:$|for .+ in .+:|try:$"
    r"|(?:if|while|with) .+:$)|(?:await )?(?:print|llm_query\w*|rlm_query\w*|\w+(?:\.\w+)+)\("
    r"|\w+(?:\.\w+|\[[^\]]*\])* ?[-+*/|&]?= ?(?:[rbf]{0,2}[\"'\[({]|[\w.]+[\[(.])"
)
_ACTIVE = ast.stmt | ast.Call | ast.comprehension | ast.Slice
_IDLE = ast.Expr | ast.AnnAssign | ast.Pass | ast.Break | ast.Continue | ast.Return | ast.Raise | ast.Global


def _python(code: str) -> ast.Module | None:
    """The syntax tree of code, in which await at the top level and IPython magics are allowed; None if it is none."""
    for source in {code: 0, MAGIC.sub(r"\1\2None", code): 0} if len(code) <= JUDGED_CHARS else ():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes: the model's business, not the caller's
                return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError):  # null bytes, deep nesting
            continue
    return None


def _is_program(code: str) -> bool:
    """Whether code parses and does something; English that happens to parse ("yes", "Paris (France)") does not."""
    tree = _python(code)
    first = tree.body[0] if tree and tree.body else None
    if not tree or (isinstance(first, ast.Expr) and isinstance(first.value, ast.Name)):
        return False  # not even if the next line is FINAL(...): it is taken out of the prose
    # FINAL_VAR alone says that the work is done, and is no function: see _ending.
    called = {*re.findall(r"\b(\w++)\(", code)} - {"FINAL_VAR"}
    return any(
        node.func.id in called
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        else isinstance(node, _ACTIVE) and not isinstance(node, _IDLE)
        for node in ast.walk(tree)
    )


def _is_plausible(code: str) -> bool:
    """Whether code with no label is Python, if need be with a slip."""
    first = next((line for line in map(str.strip, code.split("\n")) if line and line[0] not in "#%!"), "")
    return _is_program(code) if _python(code) else _SLIP.match(first[:200]) is not None


def _cell(code: str) -> str:
    """Code as it is run: LF between lines, no line end at its end, and dedented by its first line."""
    lines = code.replace("\r\n", "\n").removesuffix("\n").split("\n")
    first = next((line for line in lines if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip(" \t"))]
    return "\n".join(line.removeprefix(margin) for line in lines)


def _blanked(text: str, blocks: list[_Block]) -> str:
    """The text with spaces in the place of blocks, so that all else keeps its position."""
    edges = [_Block("", 0, 0, ""), *blocks, _Block("", len(text), len(text), "")]
    return "".join(text[a.end : b.start].rjust(b.start - a.start) for a, b in pairwise(edges))


def _is_written_out(nodes: list[ast.expr], written: set[str]) -> bool:
    """Whether expressions hold nothing but literals, and variables that are known to be written out."""
    waiting = list(nodes)
    while waiting:
        match waiting.pop():
            case ast.Constant():
                pass
            case ast.Name(id=name) if name in written:
                pass
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts) | ast.JoinedStr(values=parts):
                waiting += parts
            case ast.Dict(keys=keys, values=parts):
                waiting += [*(key for key in keys if key), *parts]
            case ast.UnaryOp(operand=part) | ast.Starred(value=part) | ast.NamedExpr(value=part):
                waiting.append(part)
            # Only concatenations: in a sum of numbers, however long, a right side is a number.
            case ast.BinOp(op=ast.Add(), right=ast.Constant(value=int() | float() | complex())):
                return False
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                waiting += [left, right]
            case ast.Call(func=ast.Name(id="dedent"), args=parts):
                waiting += parts
            case ast.Call(func=ast.Attribute(attr=method, value=text), args=parts, keywords=named) if method in _LAYOUT:
                waiting += [text, *parts, *(keyword.value for keyword in named)]
            case _:
                return False
    return True
