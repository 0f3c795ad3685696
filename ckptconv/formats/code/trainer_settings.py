"""Code that libraries run from the settings that a trainer keeps in a checkpoint.

    Lightning   load_from_checkpoint imports and calls hyper_parameters["_instantiator"]. Lightning's own instantiator
                constructs what "class_path" names; Hydra constructs what "_target_" names
    MMEngine    the configuration is Python: message_hub.runtime_info.cfg, or meta.cfg, is written to a file and
                imported if weights are loaded without a configuration, as by MMDetection's DetInferencer. Each
                type = "a.b" in it is imported and called. MMEngine itself writes only assignments of values and of
                ``dict(…)``

Sources: lightning/pytorch/core/saving.py (`_load_state`); mmengine/infer/infer.py, config/config.py (`fromstring`),
registry/registry.py (`get`).
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, objects_in, spell_path
from ckptconv.core.notes import Program
from ckptconv.errors import LimitError
from ckptconv.formats.code.python import parse_python
from ckptconv.formats.code.targets import is_suspect, targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTANTIATOR = "_instantiator"
_OWN = ("lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module")

_CONFIGURATIONS = (("message_hub", "runtime_info", "cfg"), ("meta", "cfg"))
_IMPORTS = "mmengine.Config.fromstring"
_CONSTRUCTORS = frozenset(["dict", "float", "set", "slice", "tuple"])
_VALUES = (
    ast.Module, ast.Expr, ast.Assign, ast.Store, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set,
    ast.keyword, ast.UnaryOp, ast.unaryop, ast.operator,
)  # fmt: skip


def programs_in(root: MetaNode) -> Iterator[Program]:
    """The programs in a metadata tree."""
    yield from targets_in(root)
    for path in _CONFIGURATIONS:
        text: MetaNode = root
        for key in path:
            text = text.get(key) if isinstance(text, dict) else None
        if isinstance(text, str):
            for node in _mmengine_calls(text):
                yield Program(spell_path(path), node, "MMEngine")


def targets_in(tree: MetaNode, path: tuple[object, ...] = ()) -> Iterator[Program]:
    """What Lightning or Hydra would call because settings name it. `path` is where the tree is in the metadata."""
    for where, node in objects_in(tree, path):
        for key, target, by in targets_of(node):
            yield Program(spell_path((*where, *key)), target, by)
        name = node.get(_INSTANTIATOR)
        if isinstance(name, str) and name not in _OWN:
            yield Program(spell_path((*where, _INSTANTIATOR)), Opaque(name, "called"), "Lightning")


def _mmengine_calls(text: str) -> Iterator[Opaque]:
    try:
        tree = parse_python(text, "exec")
    except LimitError as error:
        yield Opaque(_IMPORTS, "called", (error.message,))
        return
    nodes = [*ast.walk(tree)] if tree else []
    constructors = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _constructs(node)}
    code = next((node for node in nodes if not (id(node) in constructors or _is_value(node))), None)
    if code is not None:
        yield Opaque(_IMPORTS, "called", ((ast.get_source_segment(text, code) or text)[:200],))
    for name in _type_names(nodes):
        if is_suspect(name):
            yield Opaque(name, "called")


def _constructs(call: ast.Call) -> bool:
    """Whether a call makes a number or a container, the keys of which are written out."""
    if not isinstance(call.func, ast.Name) or call.func.id not in _CONSTRUCTORS:
        return False
    return call.func.id != "dict" or all(isinstance(argument, ast.Dict) for argument in call.args)


def _is_value(node: ast.AST) -> bool:
    match node:
        case ast.Call():
            return _constructs(node)
        case ast.Name(id=name):
            return isinstance(node.ctx, ast.Store) or name in ("inf", "nan")
        case ast.BinOp(left=ast.Constant(value=left), right=ast.Constant(value=right)):
            return not isinstance(left, str) and not isinstance(right, str)
        case ast.BinOp():
            return False
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name != "_base_"  # names another file, which is imported too
        case ast.Assign():
            return False
    return isinstance(node, _VALUES)


def _type_names(nodes: list[ast.AST]) -> Iterator[str]:
    """The strings under a key ``type``."""
    for node in nodes:
        match node:
            case ast.keyword(arg="type", value=ast.Constant(value=str() as name)):
                yield name
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    match key, value:
                        case ast.Constant(value="type"), ast.Constant(value=str() as name):
                            yield name
