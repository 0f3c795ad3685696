"""Find what a target format could not give back of a checkpoint, before the first byte is written.

One generic check against `Format.holds`; nothing here knows a particular format. A loss is a `Finding` of severity
"error", whose code is what ``--allow-loss`` takes.
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
"""The codes of all losses. Overflow is found while values are cast, the others before the first byte is written."""

CALL = "a call"
"""`Finding.found` of a loss: the object is made only by a call, which is never made here."""

HANDED = "a name that can run anything"
"""`Finding.found` of a loss: the pickle hands this name to something that may call it."""


def losses(checkpoint: Checkpoint, target: Format) -> list[Finding]:
    """Everything that writing `checkpoint` as `target` would lose; [] if nothing is lost."""
    holds = target.holds
    found = _dtype_losses(checkpoint, target)
    if not holds.ties:
        for names in checkpoint.ties:
            found.append(_loss("tie", names[0], f"{quoted(names)} share one tensor; {target.name} stores it for each"))
    if not holds.composites:
        for name, whole in checkpoint.composites.items():
            parts = quoted(whole.parts.values())
            message = f"{name!r} is {whole.summary}; {target.name} keeps its parts alone: {parts}"
            found.append(_loss("composite", name, message))
    if not holds.extras and checkpoint.extras:
        count = plural(len(checkpoint.extras), "tensor")
        found.append(_loss("extras", "", f"{count} outside of the state_dict: {quoted(checkpoint.extras)}"))
    if holds.metadata == "none" and checkpoint.metadata:
        found.append(_loss("metadata", "", f"the metadata: {quoted(map(str, checkpoint.metadata))}"))
    unreadable = [finding for finding in checkpoint.findings if finding.code == UNREADABLE]
    found += [_loss("opaque", finding.where, finding.message) for finding in unreadable]
    return found + _opaque_losses(checkpoint, keeps=holds.opaque)


def _loss(code: str, where: str, message: str) -> Finding:
    return Finding(code, "error", where, message)


def _call_loss(where: str, message: str) -> Finding:
    return replace(_loss("opaque", where, message), found=CALL)


def _unseen_loss(node: Opaque) -> Finding:
    """The loss of an object outside of the tree: a call whose result is dropped, or a name given to another object."""
    if node.how == "called":
        return _call_loss("", f"elsewhere in the pickle is a call of {node.name}, which is not made")
    message = f"the pickle names {node.name}, which what it is given to may call"
    return replace(_loss("opaque", "", message), found=HANDED)


def _dtype_losses(checkpoint: Checkpoint, target: Format) -> list[Finding]:
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


def _opaque_losses(checkpoint: Checkpoint, *, keeps: bool) -> list[Finding]:
    """Losses of objects of unknown classes. `keeps`: whether the target holds such objects as data."""
    found = []
    has_unreadable = any(finding.code == UNREADABLE for finding in checkpoint.findings)
    for path, node in opaque_wholes(checkpoint.root):
        where = spell_path(path)
        if node.how == "called":
            message = f"{where or 'the root'} is made by a call of {node.name}, which is not made"
            found.append(_call_loss(where, message))
        elif node.how == "unread" and has_unreadable:
            continue  # it has a finding of its own
        elif node.how == "enclosing" and not keeps:
            whole = node.args[0] or "the root"
            found.append(_loss("opaque", where, f"{where} is {whole} itself, which would become a plain dict"))
        elif node.how == "named" and not keeps:
            found.append(
                _loss("opaque", where, f"{where or 'the root'} is the name {node.name}, which would become text")
            )
        elif not keeps:
            name = class_of(node)
            article = "an" if name[:1].lower() in "aeiou" else "a"
            message = f"{where or 'the root'} is {article} {name}, which would become {becomes(node)}"
            found.append(_loss("opaque", where, message))
    for unseen in checkpoint.notes.unseen:
        found += [_unseen_loss(node) for node in nodes_of(unseen, Opaque) if node.how in RUNS]
    for name, attributes in checkpoint.notes.attributes.items():
        if isinstance(attributes, dict) and "__class__" in attributes:
            found.append(
                _loss("opaque", name, f"{name!r} is of a tensor class of its own, which would become torch.Tensor")
            )
    return found
