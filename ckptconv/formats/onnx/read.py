"""Reader of ONNX: the weights of a graph as a state_dict. The graph itself stays behind.

Which tensors belong to the model:

    initializers of the main graph      all of them, except strings
    Constant nodes, and initializers    those of a floating or complex type with at least one dimension, and the parts
    of subgraphs (the branches of an    of quantized weights. Everything else there (shapes, axes, scalars) is part of
    If) and of functions                the computation, and so are tensors in the attributes of other operators

Each has the graph's own name: the initializer's, or that of the Constant's output. If a name occurs in two graphs,
those in subgraphs and functions get their path as a prefix (``/If.then_branch.weight``). `names` recovers the names
that exporters changed. Sparse initializers are refused: no state_dict has their parts.

The strings of ``metadata_props`` become the metadata; our record among them is read as in any other format that holds
strings.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import UnsupportedError
from ckptconv.formats.graphs.notes import stays_behind
from ckptconv.formats.onnx.external import ModelFiles
from ckptconv.formats.onnx.facts import graph_facts
from ckptconv.formats.onnx.graph import Place, subgraphs
from ckptconv.formats.onnx.metadata import find_record, make_checkpoint
from ckptconv.formats.onnx.names import Names, find_names
from ckptconv.formats.onnx.quantized import Quantized, find_quantized
from ckptconv.formats.onnx.renaming import name_findings, rename_tensors, undo_transposes
from ckptconv.formats.onnx.tensors import STRING, build_tensor, tensor_info
from ckptconv.formats.onnx.walk import Walker
from ckptconv.formats.onnx.wire import Window, bad
from ckptconv.formats.tensors.shared_bytes import check_shared

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.onnx.graph import Graph, Model, TensorHeader
    from ckptconv.io.source import Source


class StoredTensor(NamedTuple):
    """A tensor of the model: where it is in the graphs, and its header."""

    place: Place
    header: TensorHeader


def read(source: Source) -> Checkpoint:
    """Open the model: its messages are walked, but no tensor data is read.

    Raises CorruptFileError, LimitError, UnsupportedError, and FileAccessError if a file of external data is missing.
    """
    window = Window(source)
    model = Walker(window).read_model()
    if model.graph is None:
        raise bad("it holds no graph")
    files = ModelFiles(source)
    try:
        return _read_checkpoint(model, model.graph, window, files)
    except BaseException:
        files.close()
        raise


def _read_checkpoint(model: Model, graph: Graph, window: Window, files: ModelFiles) -> Checkpoint:
    _refuse_sparse(model, graph)
    record = find_record(model.metadata)
    quantized = Quantized() if record else find_quantized(graph, window)
    stored = model_tensors(model, graph, quantized.places)
    tensors = {name: build_tensor(entry.header, name, files) for name, entry in stored.items()}
    check_shared(tensors.values(), files.size)
    facts = graph_facts(model, graph, window)
    findings = _graph_findings(graph, facts)
    if record:
        names = Names()
        tensors = undo_transposes(tensors, record)
    else:
        names = find_names(model, graph, window)
        tensors = rename_tensors(tensors, names, facts)
        findings += name_findings(tensors, names)
    checkpoint = make_checkpoint(tensors, model.metadata, record, findings, files)
    new_names = {entry.place: names.new_name(name) for name, entry in stored.items()}
    weights, between = quantized.with_names({place: name for place, name in new_names.items() if name in tensors})
    checkpoint.notes = replace(
        checkpoint.notes, source=checkpoint.notes.source or "onnx", graph=facts, quantized=weights, between=between
    )
    return checkpoint


def _refuse_sparse(model: Model, graph: Graph) -> None:
    bodies = [pair for body in model.functions.values() for pair in subgraphs(body)]
    for _, inner in [*subgraphs(graph), *bodies]:
        constants = [node.outputs[:1] for node in inner.nodes if node.is_constant and node.sparse]
        if inner.sparse or constants:
            what = f"the Constant {constants[0]}" if constants else "an initializer"
            raise UnsupportedError(
                f"{what} of the graph {inner.name!r} is a sparse tensor, which is not read",
                hint="make it dense first: an ordinary initializer of the same name",
            )


def model_tensors(model: Model, graph: Graph, parts: Container[Place] = ()) -> dict[str, StoredTensor]:
    """Find the model's tensors, by a name that each has alone. `parts`: the places of quantized weights' parts."""
    main = _main_initializers(graph)
    others = list(_other_weights(model, graph, parts))
    counts = Counter([*main, *(entry.place[1] for entry in others)])
    found = {name: StoredTensor(("", name), header) for name, header in main.items() if header.code != STRING}
    for entry in others:
        path, own = entry.place
        name = own if counts[own] == 1 or not path else f"{path}.{own}"
        if not own:
            raise bad(f"a tensor in {path or 'a Constant'} has no name")
        if name in found or name in main:
            raise bad(f"two tensors are called {name!r}")
        found[name] = entry
    return found


def _main_initializers(graph: Graph) -> dict[str, TensorHeader]:
    headers: dict[str, TensorHeader] = {}
    for header in graph.initializers:
        if not header.name:
            raise bad("an initializer has no name")
        if header.name in headers:
            raise bad(f"two initializers are called {header.name!r}")
        headers[header.name] = header
    return headers


def _other_weights(model: Model, graph: Graph, parts: Container[Place]) -> Iterator[StoredTensor]:
    """The model's tensors that are not initializers of the main graph."""
    functions = [pair for name, body in model.functions.items() for pair in subgraphs(body, name)]
    for path, inner in [*subgraphs(graph), *functions]:
        if inner is not graph:
            for header in inner.initializers:
                if _is_weight(header, header.name) or (path, header.name) in parts:
                    yield StoredTensor((path, header.name), header)
        for node in inner.nodes:
            if not node.is_constant:
                continue
            output = node.outputs[0] if node.outputs else ""
            for header in node.tensors:
                if _is_weight(header, output) or (path, output) in parts:
                    yield StoredTensor((path, output), header)


def _is_weight(header: TensorHeader, name: str) -> bool:
    if header.code == STRING or not header.dims:
        return False
    return tensor_info(header, name).dtype.kind in ("float", "complex")


def _graph_findings(graph: Graph, facts: dict[str, object]) -> list[Finding]:
    findings = [stays_behind(f"the graph of {facts['nodes']} nodes")]
    if strings := [header.name for header in graph.initializers if header.code == STRING]:
        message = f"strings are not weights, and stay behind with the graph: {quoted(strings)}"
        findings.append(Finding("strings", "warning", strings[0], message))
    return findings
