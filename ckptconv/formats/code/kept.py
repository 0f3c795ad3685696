"""What libraries run of the settings that a trainer keeps in a checkpoint.

    Lightning   load_from_checkpoint imports hyper_parameters["_instantiator"] and calls it. Its own makes what
                "class_path" names; Hydra what "_target_" names
    MMEngine    a configuration is Python: message_hub.runtime_info.cfg, or meta.cfg, is written to a file and imported
                where weights are given alone, as to MMDetection's DetInferencer. Each type = "a.b" in it is imported
                and called. What MMEngine keeps is assignments of values and of ``dict(…)``

Sources: lightning/pytorch/core/saving.py (`_load_state`); mmengine/infer/infer.py, config/config.py (`fromstring`),
registry/registry.py (`get`).
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, objects_in, spell_path
from ckptconv.core.notes import Program
from ckptconv.errors import LimitError
from ckptconv.formats.code.python import tree_of
from ckptconv.formats.code.targets import is_librarys, targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_INSTANTIATOR = "_instantiator"
_OWN = ("lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module")

_CONFIGURATIONS = (("message_hub", "runtime_info", "cfg"), ("meta", "cfg"))
_IMPORTS = "mmengine.Config.fromstring"
_MAKES = frozenset(["dict", "float", "set", "slice", "tuple"])
_VALUES = (
    ast.Module, ast.Expr, ast.Assign, ast.Store, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set,
    ast.keyword, ast.UnaryOp, ast.unaryop, ast.operator,
)  # fmt: skip


def programs_in(root: MetaNode) -> Iterator[Program]:
    """Those in a tree of metadata."""
    yield from named_in(root)
    for path in _CONFIGURATIONS:
        text: MetaNode = root
        for key in path:
            text = text.get(key) if isinstance(text, dict) else None
        if isinstance(text, str):
            for found in _of_mmengine(text):
                yield Program(spell_path(path), found, "MMEngine")


def named_in(tree: MetaNode, path: tuple[object, ...] = ()) -> Iterator[Program]:
    """What settings, which stand at that path, name to be called."""
    for where, node in objects_in(tree, path):
        for key, found, by in targets_of(node):
            yield Program(spell_path((*where, *key)), found, by)
        name = node.get(_INSTANTIATOR)
        if isinstance(name, str) and name not in _OWN:
            yield Program(spell_path((*where, _INSTANTIATOR)), Opaque(name, "called"), "Lightning")


def _of_mmengine(text: str) -> Iterator[Opaque]:
    try:
        tree = tree_of(text, "exec")
    except LimitError as error:
        yield Opaque(_IMPORTS, "called", (error.message,))
        return
    nodes = [*ast.walk(tree)] if tree else []
    makers = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _makes(node)}
    odd = next((node for node in nodes if not (id(node) in makers or _is_value(node))), None)
    if odd is not None:
        yield Opaque(_IMPORTS, "called", ((ast.get_source_segment(text, odd) or text)[:200],))
    for name in _types(nodes):
        if is_librarys(name):
            yield Opaque(name, "called")


def _makes(call: ast.Call) -> bool:
    """Whether a call makes a container or a number, and the names of what is in it stand there."""
    if not isinstance(call.func, ast.Name) or call.func.id not in _MAKES:
        return False
    return call.func.id != "dict" or all(isinstance(one, ast.Dict) for one in call.args)


def _is_value(node: ast.AST) -> bool:
    match node:
        case ast.Call():
            return _makes(node)
        case ast.Name(id=name):
            return isinstance(node.ctx, ast.Store) or name in ("inf", "nan")
        case ast.BinOp(left=ast.Constant(value=left), right=ast.Constant(value=right)):
            return not isinstance(left, str) and not isinstance(right, str)
        case ast.BinOp():
            return False
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name != "_base_"  # another file, which is imported as well
        case ast.Assign():
            return False
    return isinstance(node, _VALUES)


def _types(nodes: list[ast.AST]) -> Iterator[str]:
    """What stands under a key ``type``."""
    for node in nodes:
        match node:
            case ast.keyword(arg="type", value=ast.Constant(value=str() as name)):
                yield name
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    match key, value:
                        case ast.Constant(value="type"), ast.Constant(value=str() as name):
                            yield name
