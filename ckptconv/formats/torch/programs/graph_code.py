"""Code in the JSON of an exported graph, which torch runs: Python as text. Here it stays text.

    "expr_str": "Mul(Integer(2), Symbol('s0', positive=True))"     a size, which sympy.sympify evaluates as Python
    "guards_code": ["L['x'].size()[0] >= 2", …]                    conditions on inputs, compiled to a function by exec
    "in_spec": '[1, {"type": "collections.defaultdict", "context": {"default_factory_module": …}, …}]'
                                                                   how inputs are nested; the module is imported
    {"target": "torch.ops.aten.from_file.default"}                 an operator that opens a file by its name

torch.export.load evaluates sizes, and the module that it returns checks the guards when it is created, all without
asking. torch itself writes only arithmetic on symbols and sizes; anything else is reported.

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

MAX_CHARACTERS = 1 << 16
"""Characters of an expression that is parsed; torch's have a few hundred."""

MAX_DEPTH = 100
"""Nested operations in an expression; Python's own parser stops at 200 brackets."""

_EVALUATES, _EXECUTES = "sympy.sympify", "builtins.exec"

_FUNCTIONS = frozenset(
    [
        "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bool", "cast_symbool_to_symint_guardless",
        "ceiling", "cos", "cosh", "exp", "float", "floor", "int", "len", "log", "log2", "max", "min", "round",
        "sign", "sin", "sinh", "sqrt", "tan", "tanh",
    ]
)  # fmt: skip
_TENSOR_ATTRIBUTES = frozenset(["size", "stride", "storage_offset", "shape", "dim", "ndim", "numel", "item"])
"""Attributes and methods of a tensor that guards use."""

_MODULE_FUNCTIONS = re.compile(r"math\.[a-z]\w*|torch\.(_?sym_\w+|(u?int|b?float)\d+|bool)")
_CLASS = re.compile(r"[A-Z]\w+")
_WORD = re.compile(r"[\w.+ -]*")
_OPENS_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|load)\b.*")

_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.Tuple, ast.keyword, ast.expr_context, ast.Name, ast.IfExp,
)  # fmt: skip


def programs_in(program: Any, entry: str) -> Iterator[Program]:
    """The programs in the JSON of an entry, each text once."""
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
    """A `Program` for a graph that is too large to be examined, but that torch would evaluate all the same."""
    return Program(entry, Opaque(_EVALUATES, "called", (f"{size:,} bytes, which are too many to be looked at",)), BY)


def _texts(document: Any) -> Iterator[tuple[str, str]]:
    """Every string in a document, with its key, or the key of the list that it is in."""
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
    """Whether a text is a formula of sizes and symbols. It is only parsed, not run."""
    if len(text) > MAX_CHARACTERS:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH or not _is_harmless(node):
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
            return True  # the attribute and its object are nodes of their own
        case ast.Attribute(value=ast.Name(id="math" | "torch" as module), attr=name):
            return _MODULE_FUNCTIONS.fullmatch(f"{module}.{name}") is not None
        case ast.Attribute(attr=name):
            return name in _TENSOR_ATTRIBUTES
    return isinstance(node, _NODES)


def _imported(spec: str) -> Iterator[str]:
    """The names that a spec of nested inputs makes torch import: factories of defaultdicts, and enums as keys."""
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
