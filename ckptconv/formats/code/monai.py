"""Python in the configurations of MONAI bundles: each string that begins with ``$`` is evaluated when a model is
loaded.

    "device": "$torch.device('cuda:0')"     "network": "$@network_def.to(@device)"     "imports": ["$import glob"]

``@ID`` refers to the object made from another part of the configuration. The bundles that MONAI publishes ask for
devices, files and sizes, and call methods of their own parts; anything else is reported. A string that is not a valid
expression runs nothing.

Source: monai/bundle/config_item.py (`ConfigExpression`).
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.code.python import parse_python
from ckptconv.formats.code.targets import is_suspect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode

_ID = re.compile(r"@[\w#:]+")
_PART = "part_of_it"
"""The name that replaces ``@ID`` for parsing."""

_IMPORT = re.compile(r"\s*(?:from\s+([\w.]+)\s+import\s+([\w, ]+?)|import\s+([\w.]+)(?:\s+as\s+(np|pd|nib))?)\s*")
_IMPORTED = re.compile(r"(glob|os|json|math|torch|monai|numpy|pandas|nibabel|ignite|scripts)(\.[\w.]+)?")
_BUILTIN = frozenset([
    "abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "len", "list", "max", "min", "range",
    "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
])  # fmt: skip
_MODULES = frozenset(["glob", "ignite", "json", "math", "monai", "nib", "np", "numpy", "os", "pd", "scripts", "torch"])
"""Modules that an expression can name, because MONAI provides them or because of such an import."""

_KNOWN = re.compile(
    r"torch\.(device|tensor|ones|zeros|arange|stack|cat|bool|half|long|(b?float|u?int|complex)\w*|cuda\.\w+"
    r"|(nn|optim)\.(\w+\.)*[A-Z]\w*|utils\.data\.[A-Z]\w*|backends\.cudnn(\.\w+)?)"
    r"|glob\.glob|os\.(sep|path\.\w+)|(np|numpy)\.(array|arange|ones|zeros|(u?int|float)\w*|prod|ceil|floor)|math\.\w+"
    r"|monai\.(transforms|losses|networks|inferers|data|metrics|optimizers|handlers|engines)\.(\w+\.)*[A-Z]\w*"
    r"|monai\.utils\.set_determinism|json\.loads"
)
"""Names in these modules that are values, construct objects, or only look something up."""

MAX_EXPRESSIONS, _MAX_LENGTH = 1_000, 10_000
"""Expressions in a document, and characters in one, that are checked; a bundle has about a hundred of each."""

_SETTABLE = "torch.backends.cudnn"
"""The module whose attributes ``setattr`` may set."""


def expressions_in(document: MetaNode) -> Iterator[tuple[tuple[object, ...], str]]:
    """The expressions in a document that call, name or import what no bundle needs, each with its path."""
    for count, (path, text) in enumerate(_expressions(document)):
        if count >= MAX_EXPRESSIONS or runs(text):
            yield path, text
        if count >= MAX_EXPRESSIONS:
            return


def _expressions(document: MetaNode) -> Iterator[tuple[tuple[object, ...], str]]:
    """All strings in a document that begin with ``$``."""
    waiting: list[tuple[tuple[object, ...], MetaNode]] = [((), document)]
    while waiting:
        where, node = waiting.pop()
        if isinstance(node, str):
            yield where, node
        elif isinstance(node, dict):
            waiting += [((*where, key), child) for key, child in node.items() if _may_hold_expression(child)]
        elif isinstance(node, list):
            waiting += [((*where, index), child) for index, child in enumerate(node) if _may_hold_expression(child)]


def _may_hold_expression(node: MetaNode) -> bool:
    return node.startswith("$") if isinstance(node, str) else isinstance(node, (dict, list))


def runs(text: str) -> bool:
    """Whether a string is an expression that uses more than is known to be harmless."""
    if not text.startswith("$"):
        return False
    source = _ID.sub(_PART, text[1:]).strip()
    if len(source) > _MAX_LENGTH:
        return True
    if source.startswith(("import ", "from ")):
        return not _is_known_import(source)
    try:
        tree = parse_python(source)
        nodes = [*ast.walk(tree)] if tree else []
        if not any(_uses_code(node) for node in nodes):
            return False
        return not all(_is_known(node, _bound_in(nodes)) for node in ast.iter_child_nodes(nodes[0]))
    except (LimitError, RecursionError):
        return True


def _uses_code(node: ast.AST) -> bool:
    """Whether a node names a module, or calls something that can be called: "$5 (five)" is a price."""
    if isinstance(node, ast.Call):
        return not isinstance(node.func, ast.Constant)
    return isinstance(node, ast.Name) and node.id in _MODULES


def _is_known_import(source: str) -> bool:
    statement = _IMPORT.fullmatch(source)
    if statement is None:
        return False
    module, names = statement[1] or statement[3], statement[2]
    if not _IMPORTED.fullmatch(module) or not _are_plain_attributes(module.split(".")[1:]):
        return False
    return not names or all(_KNOWN.fullmatch(f"{module}.{name.strip()}") for name in names.split(","))


def _bound_in(nodes: list[ast.AST]) -> frozenset[str]:
    """The names that an expression binds itself, and those that are always there."""
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return frozenset({*(bound - _MODULES), _PART, *_BUILTIN})


def _is_known(node: ast.AST, bound: frozenset[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in bound
        case ast.Attribute():
            return _is_known_attribute(node, bound)
        case ast.Call(func=ast.Name(id="setattr"), args=[ast.Attribute() as owner, *rest], keywords=[]):
            root, parts = _dotted_parts(owner)
            may_set = isinstance(root, ast.Name) and ".".join([root.id, *parts]) == _SETTABLE
            return may_set and all(_is_known(argument, bound) for argument in rest)
    return all(_is_known(child, bound) for child in ast.iter_child_nodes(node))


def _is_known_attribute(node: ast.Attribute, bound: frozenset[str]) -> bool:
    root, parts = _dotted_parts(node)
    if isinstance(root, ast.Name) and root.id in _MODULES:
        return _KNOWN.fullmatch(".".join([root.id, *parts])) is not None
    return _are_plain_attributes(parts) and _is_known(root, bound)


def _are_plain_attributes(parts: list[str]) -> bool:
    """Whether a chain of attributes touches neither private names nor modules of the standard library."""
    return not any(part.startswith("_") for part in parts) and not is_suspect(".".join(["object", *parts, "x"]))


def _dotted_parts(node: ast.AST) -> tuple[ast.AST, list[str]]:
    """``a.b.c`` as ``a`` and its attributes ``["b", "c"]``."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return node, parts[::-1]
