"""What a target format cannot give back of a checkpoint, found before the first byte is written.

One generic check against `Format.holds`; nothing here knows any format. A loss is an error-severity `Finding` whose
code is what ``--allow-loss`` takes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import BLOCKS
from ckptconv.core.metadata import RUNS, Opaque, nodes_of, opaque_wholes, spell_path
from ckptconv.core.report import UNREADABLE, Finding
from ckptconv.core.text import plural, quoted
from ckptconv.formats.targets.plain import becomes
from ckptconv.formats.trees.tensordicts import class_of

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format

CODES = ("metadata", "extras", "opaque", "tie", "composite", "dtype", "overflow")
"""Every code of a loss. Overflow, of a cast, is found while the values pass; the others before the first byte."""


CALL = "a call"
HANDED = "a name that can run anything"
"""What a loss of an object says that it `found`, where that object is only made by a call, which is not made here."""


def losses(checkpoint: Checkpoint, target: Format) -> list[Finding]:
    """Everything that writing `checkpoint` as `target` would lose; [] means that nothing is lost."""
    holds = target.holds
    found = _dtypes(checkpoint, target)
    if not holds.ties:
        for names in checkpoint.ties:
            found.append(_loss("tie", names[0], f"{quoted(names)} share one tensor; {target.name} stores it for each"))
    if not holds.composites:
        for name, one in checkpoint.composites.items():
            message = f"{name!r} is {one.summary}; {target.name} keeps its parts alone: {quoted(one.parts.values())}"
            found.append(_loss("composite", name, message))
    if not holds.extras and checkpoint.extras:
        count = plural(len(checkpoint.extras), "tensor")
        found.append(_loss("extras", "", f"{count} outside of the state_dict: {quoted(checkpoint.extras)}"))
    if holds.metadata == "none" and checkpoint.metadata:
        found.append(_loss("metadata", "", f"the metadata: {quoted(map(str, checkpoint.metadata))}"))
    found += [_loss("opaque", one.where, one.message) for one in checkpoint.findings if one.code == UNREADABLE]
    return found + _opaque(checkpoint, keeps=holds.opaque)


def _loss(code: str, where: str, message: str) -> Finding:
    return Finding(code, "error", where, message)


def _call(where: str, message: str) -> Finding:
    return replace(_loss("opaque", where, message), found=CALL)


def _elsewhere(node: Opaque) -> Finding:
    """What the pickle would call and throw away, or gives to who may call it."""
    if node.how == "called":
        return _call("", f"elsewhere in the pickle is a call of {node.name}, which is not made")
    message = f"the pickle names {node.name}, which what it is given to may call"
    return replace(_loss("opaque", "", message), found=HANDED)


def _dtypes(checkpoint: Checkpoint, target: Format) -> list[Finding]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, tensor in checkpoint.all_tensors.items():
        if tensor.info.dtype not in target.holds.dtypes:
            names[tensor.info.dtype.name].append(name)
    return [
        replace(
            _loss("dtype", where[0], f"{target.name} has no {dtype}; its bytes would be kept as U8: {quoted(where)}"),
            hint="a .gguf holds blocks, and --dtype F32 makes floats of them" if dtype in BLOCKS else None,
        )
        for dtype, where in names.items()
    ]


def _opaque(checkpoint: Checkpoint, *, keeps: bool) -> list[Finding]:
    found = []
    unreadable = any(one.code == UNREADABLE for one in checkpoint.findings)
    for path, node in opaque_wholes(checkpoint.root):
        where = spell_path(path)
        if node.how == "called":
            found.append(_call(where, f"{where or 'the root'} is made by a call of {node.name}, which is not made"))
        elif node.how == "unread" and unreadable:
            continue  # it has a finding of its own
        elif node.how == "enclosing" and not keeps:
            whole = node.args[0] or "the root"
            found.append(_loss("opaque", where, f"{where} is {whole} itself, which would become a plain dict"))
        elif not keeps:
            name = class_of(node)
            article = "an" if name[:1].lower() in "aeiou" else "a"
            message = f"{where or 'the root'} is {article} {name}, which would become {becomes(node)}"
            found.append(_loss("opaque", where, message))
    for unseen in checkpoint.notes.unseen:
        found += [_elsewhere(one) for one in nodes_of(unseen, Opaque) if one.how in RUNS]
    for name, attributes in checkpoint.notes.attributes.items():
        if isinstance(attributes, dict) and "__class__" in attributes:
            found.append(
                _loss("opaque", name, f"{name!r} is of a tensor class of its own, which would become torch.Tensor")
            )
    return found
