"""Python in the configurations of MONAI's bundles: each text that begins with ``$`` is evaluated as a model is loaded.

    "device": "$torch.device('cuda:0')"     "network": "$@network_def.to(@device)"     "imports": ["$import glob"]

``@ID`` is what another part of the configuration became. Bundles that MONAI's people publish ask for devices, files and
sizes, and call methods of their own parts; anything else is told. A text that is no expression is nobody's program.

Source: monai/bundle/config_item.py (`ConfigExpression`).
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.formats.code.python import tree_of
from ckptconv.formats.code.targets import is_librarys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode

_ID = re.compile(r"@[\w#:]+")
_PART = "part_of_it"
"""What stands for ``@ID`` while a text is looked at."""

_IMPORT = re.compile(r"\s*(?:from\s+([\w.]+)\s+import\s+([\w, ]+?)|import\s+([\w.]+)(?:\s+as\s+(np|pd|nib))?)\s*")
_IMPORTED = re.compile(r"(glob|os|json|math|torch|monai|numpy|pandas|nibabel|ignite|scripts)(\.[\w.]+)?")
_BUILTIN = frozenset([
    "abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "len", "list", "max", "min", "range",
    "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
])  # fmt: skip
_MODULES = frozenset(["glob", "ignite", "json", "math", "monai", "nib", "np", "numpy", "os", "pd", "scripts", "torch"])
"""What an expression finds under its name, by itself or by such an import."""

_KNOWN = re.compile(
    r"torch\.(device|tensor|ones|zeros|arange|stack|cat|bool|half|long|(b?float|u?int|complex)\w*|cuda\.\w+"
    r"|(nn|optim)\.(\w+\.)*[A-Z]\w*|utils\.data\.[A-Z]\w*|backends\.cudnn(\.\w+)?)"
    r"|glob\.glob|os\.(sep|path\.\w+)|(np|numpy)\.(array|arange|ones|zeros|(u?int|float)\w*|prod|ceil|floor)|math\.\w+"
    r"|monai\.(transforms|losses|networks|inferers|data|metrics|optimizers|handlers|engines)\.(\w+\.)*[A-Z]\w*"
    r"|monai\.utils\.set_determinism|json\.loads"
)
"""What of these is a value, makes an object, or asks for something."""

MOST, _MOST_TEXT = 1_000, 10_000
"""Expressions of a document, and characters of one, that are looked at; a bundle has a hundred, of some hundred."""

_SETS = "torch.backends.cudnn"
"""Whose attributes may be set, by ``setattr``."""


def expressions_in(document: MetaNode) -> Iterator[tuple[tuple[object, ...], str]]:
    """Those in a document that call, name or import what a bundle has no need of, each with the path to it."""
    for count, (path, text) in enumerate(_texts(document)):
        if count >= MOST or runs(text):
            yield path, text
        if count >= MOST:
            return


def _texts(document: MetaNode) -> Iterator[tuple[tuple[object, ...], str]]:
    waiting: list[tuple[tuple[object, ...], MetaNode]] = [((), document)]
    while waiting:
        where, node = waiting.pop()
        if isinstance(node, str):
            yield where, node
        held = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        waiting += [((*where, key), child) for key, child in held if _may_be(child)]


def _may_be(node: MetaNode) -> bool:
    return node.startswith("$") if isinstance(node, str) else isinstance(node, (dict, list))


def runs(text: str) -> bool:
    """Whether a text is evaluated, and reaches for more than is known."""
    if not text.startswith("$"):
        return False
    source = _ID.sub(_PART, text[1:]).strip()
    if len(source) > _MOST_TEXT:
        return True
    if source.startswith(("import ", "from ")):
        return not _is_known_import(source)
    try:
        tree = tree_of(source)
        nodes = [*ast.walk(tree)] if tree else []
        if not any(_reaches(one) for one in nodes):
            return False
        return not all(_is_known(one, _bound_in(nodes)) for one in ast.iter_child_nodes(nodes[0]))
    except (LimitError, RecursionError):
        return True


def _reaches(node: ast.AST) -> bool:
    """Whether it names a module, or calls something that can be called: "$5 (five)" is a price."""
    if isinstance(node, ast.Call):
        return not isinstance(node.func, ast.Constant)
    return isinstance(node, ast.Name) and node.id in _MODULES


def _is_known_import(source: str) -> bool:
    found = _IMPORT.fullmatch(source)
    if found is None:
        return False
    module, names = found[1] or found[3], (found[2] or "").split(",")
    if not _IMPORTED.fullmatch(module) or not _is_unpacked(module.split(".")[1:]):
        return False
    return not found[2] or all(_KNOWN.fullmatch(f"{module}.{one.strip()}") for one in names)


def _bound_in(nodes: list[ast.AST]) -> frozenset[str]:
    """The names that an expression gives to values itself, and those that are there."""
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return frozenset({*(bound - _MODULES), _PART, *_BUILTIN})


def _is_known(node: ast.AST, bound: frozenset[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in bound
        case ast.Attribute():
            return _is_known_attribute(node, bound)
        case ast.Call(func=ast.Name(id="setattr"), args=[ast.Attribute() as whose, *rest], keywords=[]):
            root, parts = _parts(whose)
            is_set = isinstance(root, ast.Name) and ".".join([root.id, *parts]) == _SETS
            return is_set and all(_is_known(one, bound) for one in rest)
    return all(_is_known(one, bound) for one in ast.iter_child_nodes(node))


def _is_known_attribute(node: ast.Attribute, bound: frozenset[str]) -> bool:
    root, parts = _parts(node)
    if isinstance(root, ast.Name) and root.id in _MODULES:
        return _KNOWN.fullmatch(".".join([root.id, *parts])) is not None
    return _is_unpacked(parts) and _is_known(root, bound)


def _is_unpacked(parts: list[str]) -> bool:
    """Whether attributes of an object lead to no module of Python's, and to none that objects have for themselves."""
    return not any(part.startswith("_") for part in parts) and not is_librarys(".".join(["object", *parts, "x"]))


def _parts(node: ast.AST) -> tuple[ast.AST, list[str]]:
    """What ``a.b.c`` is of, and its attributes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return node, parts[::-1]
