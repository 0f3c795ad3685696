"""The last step of every reader of torch files: a tree of tensor stubs becomes a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import Opaque, spell_path, walk
from ckptconv.core.notes import Notes, TensorNote
from ckptconv.core.report import Finding, unreadable
from ckptconv.core.strided import is_contiguous
from ckptconv.core.text import quoted
from ckptconv.errors import LimitError
from ckptconv.formats.torch.tree.composites import check_parts, unfold
from ckptconv.formats.torch.tree.modules import quantized_layer_findings
from ckptconv.formats.torch.tree.names import no_name, with_names
from ckptconv.formats.torch.tree.outside import attribute_nodes, version_nodes
from ckptconv.formats.torch.values.dtensor import local_part_findings
from ckptconv.io.limits import MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ckptconv.core.checkpoint import OpenFile
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor, SpanFile
    from ckptconv.formats.torch.pickle import Budget, Machine
    from ckptconv.formats.torch.tree.build import Tree
    from ckptconv.formats.torch.values.stubs import TensorStub

_UNINITIALIZED = frozenset(f"torch.nn.parameter.Uninitialized{kind}" for kind in ("Parameter", "Buffer"))


def assemble(
    tree: Tree,
    place: Callable[[str, TensorStub], LazyTensor],
    budget: Budget,
    *,
    format: str,
    machines: Sequence[Machine],
    file: OpenFile,
    arch: MetaNode = None,
    graph: MetaNode = None,
    findings: tuple[Finding, ...] = (),
    own: Callable[[str], bool] = no_name,
    within: Sequence[tuple[Machine, Collection[str]]] = (),
) -> Checkpoint:
    """Place every tensor of the tree, and collect the notes, with the names in the pickles that `machines` have run.

    own:    as in `with_names`.
    within: machines of pickles inside these, each with the names that need not be reported.

    Raises CorruptFileError and UnsupportedError, which name the tensor, and LimitError.
    """
    composites = unfold(tree)
    if len(tree.model) + len(tree.extras) > MAX_TENSORS:
        raise LimitError(f"the file has more than {MAX_TENSORS:,} tensors")
    stubs = {**tree.model, **tree.extras}
    tensors = {name: place(name, stub) for name, stub in stubs.items()}
    check_parts(composites, tensors)
    attributes, lost = _attributes(stubs, budget)
    versions = version_nodes(tree, budget)
    notes = Notes(format, _tensor_notes(stubs), _strides(tensors), attributes, versions, arch=arch, graph=graph)
    for machine in machines:
        notes = with_names(notes, machine, tree, budget, own)
    for machine, names in within:
        notes = with_names(notes, machine, tree, budget, names.__contains__)
    return Checkpoint(
        {name: tensors[name] for name in tree.model},
        extras={name: tensors[name] for name in tree.extras},
        composites=composites,
        root=tree.root,
        format=format,
        notes=notes,
        findings=(
            *findings,
            *_optimizer_findings(tree),
            *local_part_findings(obj for obj, _ in tree.objects),
            *quantized_layer_findings(obj for obj, _ in tree.objects),
            *(unreadable(name, kind) for name, kind in tree.refused.items()),
            *lost,
            *_retyped_findings(tensors),
            *_uninitialized_findings(tree, notes),
        ),
        file=file,
    )


def _optimizer_findings(tree: Tree) -> list[Finding]:
    """A finding if the file is an optimizer's state_dict, which trainers save beside the model."""
    if not _is_optimizer_state(tree.root):
        return []
    return [Finding("optimizer", "info", "", "this is the state of an optimizer; the model is in another file")]


def _is_optimizer_state(node: MetaNode) -> bool:
    """Whether a tree is an optimizer's state_dict, or consists of such: nanochat saves a list of two."""
    if isinstance(node, dict) and node.keys() == {"state", "param_groups"}:
        return True
    if isinstance(node, dict):
        node = list(node.values())
    return isinstance(node, (list, tuple)) and bool(node) and all(map(_is_optimizer_state, node))


def _uninitialized_findings(tree: Tree, notes: Notes) -> list[Finding]:
    """A finding if lazy layers (``LazyLinear``), which take their width from their first input, have no shape yet."""
    if not any(use.name in _UNINITIALIZED for use in notes.globals):
        return []
    found = [
        spell_path(path) for path, node in walk(tree.root) if isinstance(node, Opaque) and node.name in _UNINITIALIZED
    ]
    if not found:
        return []
    what = "1 parameter has" if len(found) == 1 else f"{len(found):,} parameters have"
    message = f"{what} no shape yet, of lazy layers ({quoted(found, 2)}): run the model once before you save it"
    return [Finding("uninitialized", "warning", found[0], message)]


def _retyped_findings(tensors: Mapping[str, LazyTensor]) -> list[Finding]:
    """A finding for each storage that tensors view as different element types: here they no longer share it."""
    first: dict[tuple[SpanFile, int], str] = {}
    found: dict[str, Finding] = {}
    for name, tensor in tensors.items():
        if tensor.placement is None or not tensor.info.nbytes:
            continue
        span = tensor.placement.storage.span
        other = first.setdefault((span.file, span.offset), name)
        if tensors[other].info.dtype is not tensor.info.dtype:
            message = f"{other!r} and {name!r} view one storage as different element types; each is kept by itself"
            found.setdefault(other, Finding("retyped", "info", name, message))
    return list(found.values())


def _tensor_notes(stubs: Mapping[str, TensorStub]) -> dict[str, TensorNote]:
    return {
        name: TensorNote(stub.parameter, stub.requires_grad, stub.storage.device)
        for name, stub in stubs.items()
        if stub.parameter or stub.requires_grad or stub.storage.device != "cpu"
    }


def _strides(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[int, ...]]:
    strides: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        place = tensor.placement
        if tensor.span is None and place is not None and not is_contiguous(place.shape, place.strides):
            strides[name] = place.strides
    return strides


def _attributes(stubs: Mapping[str, TensorStub], budget: Budget) -> tuple[dict[str, MetaNode], list[Finding]]:
    """Python attributes that were set on tensors; those that hold tensors are left out, with a finding each."""
    attributes: dict[str, MetaNode] = {}
    findings = []
    for name, stub in stubs.items():
        if stub.attributes:
            kept, lost = attribute_nodes(stub.attributes, budget)
            findings += [_lost_attribute(name, key) for key in lost]
            if kept:
                attributes[name] = kept
    return attributes, findings


def _lost_attribute(name: str, key: str) -> Finding:
    message = f"the attribute {key!r} of {name!r} holds a tensor and is left out"
    return Finding("attribute", "warning", name, message)
