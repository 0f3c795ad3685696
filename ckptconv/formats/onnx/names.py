"""Recover the names that an exporter changed, where the graph proves them.

PyTorch's exporters keep a parameter's name unless they compute something from the parameter. The cases are:

    Linear, 3-D input   The weight is stored transposed, as ``onnx::MatMul_25`` or ``val_0``. The newer exporter notes
                        on the MatMul the module that it is in, and its class: a ``torch.nn.Linear`` named "fc" has its
                        ``fc.weight`` there. The older one gives the node the module's scope (``/a/fc/MatMul``), and
                        adds the bias ``a.fc.bias`` with the bias as the first operand, as it does only for Linear.
    equal tensors       The older exporter stores one of them, and makes the others with ``Identity_0`` nodes, whose
                        outputs have their names. Whether they were tied or only equal is unknown; they are read as
                        equal.
    recurrent layers    They are packed, their gates in another order: see `recurrent`.
    inlined graphs      Their tensors' names have a prefix: see `inlined_names`.
    batch norm          It is folded into the convolution before it: equivalent weights, but not the model's own. The
                        newer exporter keeps the convolution's names and notes the rewrite; the older makes new ones.

If two tensors would get the same name, neither gets it. Everything else keeps the graph's name.

Source: torch/onnx/utils.py, torch/csrc/jit/passes/onnx/deduplicate_initializers.cpp, onnxscript/rewriter (torch 2.13).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.formats.onnx.graph import subgraphs
from ckptconv.formats.onnx.inlined_names import find_inlined_names
from ckptconv.formats.onnx.recurrent import PackedTensor, find_packed_tensors
from ckptconv.formats.onnx.scopes import read_scopes
from ckptconv.formats.onnx.unnamed import UnnamedTensor, bias_addition, find_unnamed, is_generated
from ckptconv.formats.onnx.walk import read_properties

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptconv.formats.onnx.graph import Graph, Model, Node, TensorHeader
    from ckptconv.formats.onnx.wire import Window

_PRODUCER = 2
_CONV_PARTS = re.compile(r"onnx::Conv(Transpose)?_\d+")
_DEDUPLICATED = re.compile(r"Identity_\d+")
_LINEAR = ["torch.nn.modules.linear.Linear", "aten.linear.default"]
_RULE, _FOLDING = "pkg.onnxscript.rewriter.rule_name", "FuseBatchNorm"


@dataclass(slots=True)
class Names:
    """What was found out about the names of the main graph's initializers.

    inlined:    the graph's name → the name without the prefix of an inlined graph.
    transposed: the graph's name → the model's name, for matrices that are stored transposed.
    same:       the name of a tensor that is not stored → the initializer that it equals.
    folded:     initializers that a batch norm was folded into.
    packed:     the name of a recurrent layer's tensor → where it is in a packed one.
    unnamed:    tensors that keep a name which the exporter generated, in the order in which the graph uses them.
    """

    inlined: dict[str, str] = field(default_factory=dict)
    transposed: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    packed: dict[str, PackedTensor] = field(default_factory=dict)
    unnamed: list[UnnamedTensor] = field(default_factory=list)

    def new_name(self, name: str) -> str:
        """The model's name for a tensor of the graph."""
        return self.transposed.get(name) or self.inlined.get(name, name)


def find_names(model: Model, graph: Graph, window: Window) -> Names:
    """Find names for the initializers of the main graph, and for any tensor with a prefix.

    Reads the properties of a few nodes.
    """
    names = Names(find_inlined_names(model, graph))
    if model.texts.get(_PRODUCER) != "pytorch":
        return names
    stored = {header.name: header for header in graph.initializers}
    matrices = {name for name, header in stored.items() if len(header.dims) == 2 and is_generated(name)}
    uses = _nodes_by_input([inner for _, inner in subgraphs(graph)])
    outputs = set(_output_names(graph, window))
    for node in graph.nodes:
        if node.op == "MatMul" and len(node.inputs) == 2 and node.inputs[1] in matrices:
            weight = node.inputs[1]
            if len(uses[weight]) == 1 and (name := _linear_weight_name(node, stored, uses, window)):
                names.transposed[weight] = name
        elif node.op == "Identity" and _DEDUPLICATED.fullmatch(node.name) and len(node.outputs) == 1:
            same, kept = node.outputs[0], node.inputs[0] if node.inputs else ""
            if kept in stored and same not in stored and same not in outputs and not is_generated(same):
                names.same[same] = kept
        elif node.op in ("Conv", "ConvTranspose", "Gemm"):
            folded = _inputs_with_folded_norm(node, window)
            names.folded += [name for name in folded if name in stored and name not in names.folded]
    names.packed = find_packed_tensors(graph, uses, window)
    _drop_clashes(names, stored)
    known = {*names.transposed, *names.folded, *(packed.stored for packed in names.packed.values())}
    explained = {*known, *names.same.values()}
    names.inlined = {old: new for old, new in names.inlined.items() if old not in explained}
    names.unnamed = find_unnamed(graph, stored, uses, known, list(names.packed), window)
    return names


def _output_names(graph: Graph, window: Window) -> Iterable[str]:
    for begin, end in graph.outputs:
        for number, _, start, stop in window.fields(begin, end):
            if number == 1:
                yield window.text(start, stop)


def _nodes_by_input(graphs: list[Graph]) -> dict[str, list[Node]]:
    uses: dict[str, list[Node]] = defaultdict(list)
    for graph in graphs:
        for node in graph.nodes:
            for name in node.inputs:
                uses[name].append(node)
    return uses


def _linear_weight_name(
    node: Node, stored: dict[str, TensorHeader], uses: dict[str, list[Node]], window: Window
) -> str | None:
    """The weight's name in the Linear that a MatMul stands for; None if nothing proves that it is one."""
    if node.properties:
        classes, names = read_scopes(window, node)
        if classes[-2:] != _LINEAR or len(names) < 2:
            return None
        return f"{names[-2]}.weight" if names[-2] else "weight"
    addition = bias_addition(node, uses)
    if addition is None:
        return None
    bias = stored.get(addition.inputs[0])
    scope = node.name.rpartition("/")[0]
    if bias is None or bias.dims != stored[node.inputs[1]].dims[1:] or addition.name.rpartition("/")[0] != scope:
        return None
    module, _, last = bias.name.rpartition(".")
    if last != "bias" or not f".{module}".endswith(f".{scope.rpartition('/')[2]}"):
        return None
    return f"{module}.weight" if module else "weight"


def _inputs_with_folded_norm(node: Node, window: Window) -> Sequence[str]:
    parts = [name for name in node.inputs[1:] if _CONV_PARTS.fullmatch(name)]
    if not parts and node.properties and read_properties(window, node).get(_RULE, "").startswith(_FOLDING):
        return node.inputs[1:]
    return parts


def _drop_clashes(names: Names, stored: dict[str, TensorHeader]) -> None:
    """Drop new names that more than one tensor would get."""
    wanted = Counter([*names.inlined.values(), *names.transposed.values(), *names.same, *names.packed])
    names.inlined = {old: new for old, new in names.inlined.items() if wanted[new] == 1}
    names.transposed = {old: new for old, new in names.transposed.items() if wanted[new] == 1 and new not in stored}
    names.same = {new: kept for new, kept in names.same.items() if wanted[new] == 1}
    if any(wanted[new] > 1 for new in names.packed):  # all parts of a packed tensor are renamed, or none
        names.packed = {}
