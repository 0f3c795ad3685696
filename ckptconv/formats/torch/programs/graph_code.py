"""What torch runs of the JSON of an exported graph: Python that stands in it as text. Here it stays text.

    "expr_str": "Mul(Integer(2), Symbol('s0', positive=True))"     a size, which sympy.sympify evaluates as Python
    "guards_code": ["L['x'].size()[0] >= 2", …]                    conditions on inputs, which exec makes a function of
    "in_spec": '[1, {"type": "collections.defaultdict", "context": {"default_factory_module": …}, …}]'
                                                                   how inputs are nested; the module is imported
    {"target": "torch.ops.aten.from_file.default"}                 an operator that opens a file by its name

torch.export.load evaluates sizes, and the module that it gives checks the guards when it is made; nothing asks for
consent. What torch writes there is arithmetic on symbols and sizes; anything else is told.

Sources: torch/_export/serde/serialize.py (`_parse_sym_expr`), torch/export/_unlift.py (`_convert_guards_code_to_fn`),
torch/utils/_pytree.py (`_defaultdict_deserialize`, `enum_object_hook`).
"""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.torch.calls.capable import could_run
from ckptconv.formats.torch.pickle import Global

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import How

BY = "torch.export"

MOST_CHARACTERS = 1 << 16
"""Of an expression that is parsed; torch's have some hundred."""

MOST_DEEP = 100
"""Operations in each other, in one that is looked at; Python's own parser stops at 200 brackets."""

_EVALUATES, _EXECUTES = "sympy.sympify", "builtins.exec"

_FUNCTIONS = frozenset(
    [
        "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bool", "cast_symbool_to_symint_guardless",
        "ceiling", "cos", "cosh", "exp", "float", "floor", "int", "len", "log", "log2", "max", "min", "round",
        "sign", "sin", "sinh", "sqrt", "tan", "tanh",
    ]
)  # fmt: skip
_ASKED = frozenset(["size", "stride", "storage_offset", "shape", "dim", "ndim", "numel", "item"])
"""What a guard asks a tensor for."""

_OF_MODULES = re.compile(r"math\.[a-z]\w*|torch\.(_?sym_\w+|(u?int|b?float)\d+|bool)")
_CLASS = re.compile(r"[A-Z]\w+")
_WORD = re.compile(r"[\w.+ -]*")
_OPENS_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|load)\b.*")

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.Tuple, ast.keyword, ast.expr_context, ast.Name, ast.IfExp,
)  # fmt: skip


def programs_in(program: Any, entry: str) -> Iterator[Program]:
    """What the JSON in an entry of the archive has of that, each text once."""
    seen: set[tuple[str, str]] = set()
    for key, text in _texts(program):
        if (key, text) in seen:
            continue
        seen.add((key, text))
        if key == "expr_str" and not _is_arithmetic(text):
            yield Program(f"{entry}: expr_str", Opaque(_EVALUATES, "called", (text,)), BY)
        elif key == "guards_code" and not _is_arithmetic(text):
            yield Program(f"{entry}: guards_code", Opaque(_EXECUTES, "called", (text,)), BY)
        elif key in ("in_spec", "out_spec"):
            for name in _imported(text):
                how: How = "called" if could_run(Global(*name.rpartition(".")[::2])) else "object"
                yield Program(f"{entry}: {key}", Opaque(name, how), BY)
        elif key == "target" and _OPENS_FILES.fullmatch(text):
            yield Program(f"{entry}: target", Opaque(text, "called"), BY)


def unread(entry: str, size: int) -> Program:
    """What is said of a graph that is too large to be looked at, and that torch would evaluate nevertheless."""
    return Program(entry, Opaque(_EVALUATES, "called", (f"{size:,} bytes, which are too many to be looked at",)), BY)


def _texts(document: Any) -> Iterator[tuple[str, str]]:
    """Every text in it, with the key that it, or the list that it is in, stands under."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        key, node = waiting.pop()
        if isinstance(node, str):
            yield key, node
        elif isinstance(node, dict):
            waiting += reversed([*node.items()])
        elif isinstance(node, list):
            waiting += [(key, child) for child in reversed(node)]


def _is_arithmetic(text: str) -> bool:
    """Whether it is a formula of sizes and symbols. Python's parser reads it, and runs nothing."""
    if len(text) > MOST_CHARACTERS:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MOST_DEEP or not _is_harmless(node):
            return False
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return True


def _is_harmless(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            return not isinstance(value, (str, bytes)) or (
                isinstance(value, str) and _WORD.fullmatch(value) is not None
            )
        case ast.Call(func=ast.Name(id=name)):
            return name in _FUNCTIONS or _CLASS.fullmatch(name) is not None
        case ast.Call(func=ast.Attribute()) | ast.Subscript():
            return True  # what is called, and what it is of, is looked at by itself
        case ast.Attribute(value=ast.Name(id="math" | "torch" as module), attr=name):
            return _OF_MODULES.fullmatch(f"{module}.{name}") is not None
        case ast.Attribute(attr=name):
            return name in _ASKED
    return isinstance(node, _NODES)


def _imported(spec: str) -> Iterator[str]:
    """The names that a nesting of inputs makes torch import: factories of defaultdicts, and enums as keys."""
    try:
        waiting = [json.loads(spec)]
    except (ValueError, RecursionError):
        return
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            module, name = node.get("default_factory_module"), node.get("default_factory_name")
            if isinstance(module, str) and module not in ("builtins", "collections"):
                yield f"{module}.{name}"
            if "__enum__" in node:
                yield str(node.get("fqn")).replace(":", ".")
            waiting += node.values()
        elif isinstance(node, str) and node[:1] in ("{", "["):
            try:
                waiting.append(json.loads(node))
            except (ValueError, RecursionError):
                continue
