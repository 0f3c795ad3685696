"""Give tensors the names that `names` found, with matrices the right way round, and report it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, Placement, Storage, TensorInfo
from ckptconv.core.text import listed, quoted
from ckptconv.formats.onnx.unnamed import is_generated
from ckptconv.io.gather import Gather

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.record import Record
    from ckptconv.formats.onnx.names import Names

_GATHERED_BITS = (8, 16, 32, 64)


def rename_tensors(tensors: dict[str, LazyTensor], names: Names, facts: dict[str, object]) -> dict[str, LazyTensor]:
    """The tensors under their new names. `names` keeps only what was done; `facts` gets what `inspect` shows of it."""
    names.inlined = {old: new for old, new in names.inlined.items() if old in tensors and new not in tensors}
    renamed: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        new = names.transposed.get(name)
        matrix = None if new is None or new in tensors else transposed(tensor)
        if new is None or matrix is None:
            names.transposed.pop(name, None)
            renamed[names.inlined.get(name, name)] = tensor
        else:
            renamed[new] = matrix
    for new, kept in names.same.items():
        if new not in renamed and kept in renamed:
            renamed[new] = replace(renamed[kept], alias=(renamed[kept].alias, new))
    _unpack(renamed, tensors, names)
    if unnamed := [tensor.to_dict() for tensor in names.unnamed if tensor.name in renamed]:
        facts["unnamed"] = unnamed
    if old_names := {new: old for old, new in (names.inlined | names.transposed).items()}:
        facts["renamed"] = old_names
    return renamed


def _unpack(renamed: dict[str, LazyTensor], tensors: Mapping[str, LazyTensor], names: Names) -> None:
    """Replace the packed tensors of recurrent layers, unless another tensor has one of the new names."""
    if names.packed.keys() & renamed.keys():
        names.packed.clear()
    for new, packed in names.packed.items():
        renamed[new] = packed.unpack(tensors[packed.stored], new)
    for stored in {packed.stored for packed in names.packed.values()}:
        del renamed[stored]


def undo_transposes(tensors: dict[str, LazyTensor], record: Record) -> dict[str, LazyTensor]:
    """Transpose back what the record says was stored transposed; what cannot have been stays as it is."""
    matrices = {name: transposed(tensors[name]) for name in record.turned if name in tensors}
    return {name: matrices.get(name) or tensor for name, tensor in tensors.items()}


def transposed(tensor: LazyTensor) -> LazyTensor | None:
    """The transposed matrix; None if the elements are not one contiguous run of whole bytes."""
    info, span = tensor.info, tensor.span
    if span is None or len(info.shape) != 2 or info.dtype.bits not in _GATHERED_BITS:
        return None
    rows, columns = info.shape
    storage = Storage(tensor.alias, span, info.dtype.bits // 8, info.numel, info.dtype)
    placement = Placement(storage, 0, (columns, rows), (1, columns))
    new_info = TensorInfo(info.dtype, placement.shape, info.nbytes)
    return LazyTensor(new_info, Gather(placement, info.dtype), None, ("transposed", tensor.alias), (span,))


def name_findings(tensors: Mapping[str, LazyTensor], names: Names) -> list[Finding]:
    """What was renamed, and which names could not be recovered."""
    findings = []
    if names.inlined:
        pairs = [f"{new!r} is the graph's {old!r}" for old, new in names.inlined.items()]
        message = f"prefixes of graphs that were put into this one are left out: {listed(pairs)}"
        findings.append(Finding("inlined", "info", next(iter(names.inlined.values())), message))
    if names.transposed:
        pairs = [f"{new!r} is the graph's {old!r}" for old, new in names.transposed.items()]
        message = f"weights of linear layers have their names back, and are transposed: {listed(pairs)}"
        findings.append(Finding("renamed", "info", next(iter(names.transposed.values())), message))
    if names.packed:
        message = (
            f"{len(names.packed)} tensors of recurrent layers are unpacked, their gates in torch's order: "
            f"{quoted(names.packed)}"
        )
        findings.append(Finding("unpacked", "info", next(iter(names.packed)), message))
    if same := [f"{new!r} is {kept!r}" for new, kept in names.same.items() if new in tensors]:
        message = f"equal to others and not stored, so that they may have been tied: {listed(same)}"
        findings.append(Finding("equal", "info", next(iter(names.same)), message))
    if folded := [name for name in names.folded if name in tensors]:
        message = f"the exporter folded a batch norm into them, so that they are not the model's own: {quoted(folded)}"
        findings.append(Finding("folded", "warning", folded[0], message))
    if unnamed := [name for name in tensors if is_generated(name)]:
        count = f"{len(unnamed)} of the tensors {'have' if len(unnamed) > 1 else 'has'}"
        message = f"{count} no name but the graph's: {quoted(unnamed)}"
        findings.append(Finding("unnamed", "info", unnamed[0], message))
    return findings
