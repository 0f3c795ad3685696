"""Reader of ONNX: the weights of a graph as a state_dict. The graph itself stays behind.

Which tensors are the model's:

    initializers of the main graph      all of them, but strings
    Constant nodes, and initializers    those of a floating or complex type with at least one dimension; everything else
    of subgraphs (the branches of an    there (shapes, axes, scalars) is part of the computation, and so are tensors in
    If) and of functions                attributes of other operators; parts of quantized weights are the model's too

Each goes by the graph's own name: an initializer's, or that of the value that a Constant makes; where that stands in
two graphs, those in subgraphs and functions go by their path (``/If.then_branch.weight``). See `names` for the names
that exporters took away. Sparse initializers are refused: as parts, they would fit no state_dict.

Strings of ``metadata_props`` are metadata; our record among them is read as from any format of strings.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, Placement, Storage, TensorInfo
from ckptconv.core.text import listed, quoted
from ckptconv.errors import UnsupportedError
from ckptconv.formats.graphs.notes import stays_behind
from ckptconv.formats.onnx import names as naming
from ckptconv.formats.onnx.external import ModelFiles
from ckptconv.formats.onnx.facts import facts
from ckptconv.formats.onnx.graph import subgraphs
from ckptconv.formats.onnx.quantized import Quantized, find_quantized
from ckptconv.formats.onnx.recorded import as_recorded, our_record
from ckptconv.formats.onnx.tensors import STRING, build, info_of
from ckptconv.formats.onnx.walk import Walker
from ckptconv.formats.onnx.wire import Window, bad
from ckptconv.formats.tensors.shared_bytes import check_shared
from ckptconv.io.gather import Gather

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.record import Record
    from ckptconv.formats.onnx.graph import Graph, Model, TensorHeader
    from ckptconv.formats.onnx.names import Names
    from ckptconv.formats.onnx.quantized import Place
    from ckptconv.io.source import Source

_GATHERED_BITS = (8, 16, 32, 64)


def read(source: Source) -> Checkpoint:
    """Open the model: its messages are walked, no number of a tensor is read.

    Raises CorruptFileError, LimitError, UnsupportedError, and FileAccessError where a file of external data is missing.
    """
    window = Window(source)
    model = Walker(window).model()
    if model.graph is None:
        raise bad("it holds no graph")
    files = ModelFiles(source)
    try:
        return _checkpoint(model, model.graph, window, files)
    except BaseException:
        files.close()
        raise


def _checkpoint(model: Model, graph: Graph, window: Window, files: ModelFiles) -> Checkpoint:
    _refuse_sparse(model, graph)
    record = our_record(model.metadata)
    quantized = Quantized() if record else find_quantized(graph, window)
    headers = named(model, graph, quantized.places)
    tensors = {name: build(header, name, files) for name, (_, header) in headers.items()}
    check_shared(tensors.values(), files.size)
    noted = facts(model, graph, window)
    found = naming.Names() if record else naming.find(model, graph, window)
    tensors = _turned(tensors, record) if record else _renamed(tensors, found, noted)
    findings = [*_about(graph, noted), *([] if record else _about_names(tensors, found))]
    checkpoint = as_recorded(tensors, model.metadata, record, findings, files)
    names = {place: found.new_name(name) for name, (place, _) in headers.items()}
    weights, between = quantized.named({place: name for place, name in names.items() if name in tensors})
    checkpoint.notes = replace(
        checkpoint.notes, source=checkpoint.notes.source or "onnx", graph=noted, quantized=weights, between=between
    )
    return checkpoint


def _refuse_sparse(model: Model, graph: Graph) -> None:
    bodies = [pair for body in model.functions.values() for pair in subgraphs(body)]
    for _, one in [*subgraphs(graph), *bodies]:
        constants = [node.outputs[:1] for node in one.nodes if node.is_constant and node.sparse]
        if one.sparse or constants:
            what = f"the Constant {constants[0]}" if constants else "an initializer"
            raise UnsupportedError(
                f"{what} of the graph {one.name!r} is a sparse tensor, which is not read",
                hint="make it dense first: an ordinary initializer of the same name",
            )


def named(model: Model, graph: Graph, parts: Container[Place] = ()) -> dict[str, tuple[Place, TensorHeader]]:
    """Where the model's tensors are, and their headers, by names of their own. `parts` of weights count as weights."""
    main: dict[str, TensorHeader] = {}
    for header in graph.initializers:
        if not header.name:
            raise bad("an initializer has no name")
        if header.name in main:
            raise bad(f"two initializers are called {header.name!r}")
        main[header.name] = header
    others = list(_others(model, graph, parts))
    count = Counter([*main, *(name for _, name, _ in others)])
    found = {name: (("", name), header) for name, header in main.items() if header.code != STRING}
    for path, own, header in others:
        name = own if count[own] == 1 or not path else f"{path}.{own}"
        if not own:
            raise bad(f"a tensor in {path or 'a Constant'} has no name")
        if name in found or name in main:
            raise bad(f"two tensors are called {name!r}")
        found[name] = (path, own), header
    return found


def _others(model: Model, graph: Graph, parts: Container[Place]) -> Iterator[tuple[str, str, TensorHeader]]:
    """Path, name and header of the model's tensors that are not initializers of the main graph."""
    functions = [pair for name, body in model.functions.items() for pair in subgraphs(body, name)]
    for path, one in [*subgraphs(graph), *functions]:
        for header in one.initializers if one is not graph else ():
            if _is_weight(header, header.name) or (path, header.name) in parts:
                yield path, header.name, header
        for node in one.nodes:
            own = node.outputs[0] if node.outputs else ""
            for header in node.tensors if node.is_constant else ():
                if _is_weight(header, own) or (path, own) in parts:
                    yield path, own, header


def _is_weight(header: TensorHeader, name: str) -> bool:
    if header.code == STRING or not header.dims:
        return False
    return info_of(header, name).dtype.kind in ("float", "complex")


def _renamed(tensors: dict[str, LazyTensor], found: Names, noted: dict[str, object]) -> dict[str, LazyTensor]:
    """The tensors under the names that were found, transposed ones the right way round."""
    named: dict[str, LazyTensor] = {}
    found.inlined = {old: new for old, new in found.inlined.items() if old in tensors and new not in tensors}
    for name, tensor in tensors.items():
        new = found.transposed.get(name)
        turned = None if new is None or new in tensors else _transposed(tensor)
        if new is None or turned is None:
            found.transposed.pop(name, None)
            named[found.inlined.get(name, name)] = tensor
        else:
            named[new] = turned
    for new, kept in found.same.items():
        if new not in named and kept in named:
            named[new] = replace(named[kept], alias=(named[kept].alias, new))
    if found.packed and not found.packed.keys() & named.keys():
        for new, packed in found.packed.items():
            named[new] = packed.unpacked(tensors[packed.stored], new)
        for stored in {packed.stored for packed in found.packed.values()}:
            del named[stored]
    else:
        found.packed.clear()
    if lost := [one.to_dict() for one in found.lost if one.name in named]:
        noted["unnamed"] = lost
    if renamed := {new: old for old, new in (found.inlined | found.transposed).items()}:
        noted["renamed"] = renamed
    return named


def _turned(tensors: dict[str, LazyTensor], record: Record) -> dict[str, LazyTensor]:
    """The tensors as the record says that they were; one that cannot have been transposed stays as it is."""
    turned = {name: _transposed(tensors[name]) for name in record.turned if name in tensors}
    return {name: turned.get(name) or tensor for name, tensor in tensors.items()}


def _transposed(tensor: LazyTensor) -> LazyTensor | None:
    """The matrix the other way round; None where its elements do not lie as one run of whole bytes."""
    info, span = tensor.info, tensor.span
    if span is None or len(info.shape) != 2 or info.dtype.bits not in _GATHERED_BITS:
        return None
    rows, columns = info.shape
    storage = Storage(tensor.alias, span, info.dtype.bits // 8, info.numel, info.dtype)
    place = Placement(storage, 0, (columns, rows), (1, columns))
    turned = TensorInfo(info.dtype, place.shape, info.nbytes)
    return LazyTensor(turned, Gather(place, info.dtype), None, ("transposed", tensor.alias), (span,))


def _about(graph: Graph, noted: dict[str, object]) -> list[Finding]:
    findings = [stays_behind(f"the graph of {noted['nodes']} nodes")]
    if strings := [header.name for header in graph.initializers if header.code == STRING]:
        message = f"strings are not weights, and stay behind with the graph: {quoted(strings)}"
        findings.append(Finding("strings", "warning", strings[0], message))
    return findings


def _about_names(tensors: dict[str, LazyTensor], found: Names) -> list[Finding]:
    findings = []
    if found.inlined:
        pairs = [f"{new!r} is the graph's {old!r}" for old, new in found.inlined.items()]
        message = f"prefixes of graphs that were put into this one are left out: {listed(pairs)}"
        findings.append(Finding("inlined", "info", next(iter(found.inlined.values())), message))
    if found.transposed:
        pairs = [f"{new!r} is the graph's {old!r}" for old, new in found.transposed.items()]
        message = f"weights of linear layers have their names back, and are transposed: {listed(pairs)}"
        findings.append(Finding("renamed", "info", next(iter(found.transposed.values())), message))
    if found.packed:
        message = (
            f"{len(found.packed)} tensors of recurrent layers are unpacked, their gates in torch's order: "
            f"{quoted(found.packed)}"
        )
        findings.append(Finding("unpacked", "info", next(iter(found.packed)), message))
    if same := [f"{new!r} is {kept!r}" for new, kept in found.same.items() if new in tensors]:
        message = f"equal to others and not stored, so that they may have been tied: {listed(same)}"
        findings.append(Finding("equal", "info", next(iter(found.same)), message))
    if folded := [name for name in found.folded if name in tensors]:
        message = f"the exporter folded a batch norm into them, so that they are not the model's own: {quoted(folded)}"
        findings.append(Finding("folded", "warning", folded[0], message))
    if unnamed := [name for name in tensors if naming.is_given(name)]:
        count = f"{len(unnamed)} of the tensors {'have' if len(unnamed) > 1 else 'has'}"
        message = f"{count} no name but the graph's: {quoted(unnamed)}"
        findings.append(Finding("unnamed", "info", unnamed[0], message))
    return findings
