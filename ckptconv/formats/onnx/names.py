"""The names that an exporter took away, found again where the graph proves them.

PyTorch's exporters keep a parameter's name unless they compute something from it. What they leave behind:

    Linear on 3-D input   the weight is stored transposed, as ``onnx::MatMul_25`` or ``val_0``. The newer exporter notes
                          on the MatMul in which module it stands, and its class: a ``torch.nn.Linear`` named "fc" has
                          its ``fc.weight`` there. The older one gives the node the module's scope (``/a/fc/MatMul``),
                          and adds the bias ``a.fc.bias`` with the bias first, as it does for Linear alone.
    equal tensors         the older exporter stores one of them, and makes the others by ``Identity_0`` nodes, whose
                          outputs carry their names. Whether they were tied or only equal is not known; they
                          are read as equal.
    recurrent layers      are packed, their gates in another order: see `recurrent`.
    graphs in graphs      have a prefix before their tensors' names: see `inlined`.
    batch norm            is folded into the convolution before it: equivalent weights, not the model's own. The newer
                          exporter keeps the convolution's names, and notes the rewriting; the older makes new ones.

A name that two tensors would get is given to none. Anything else keeps the graph's name.

Source: torch/onnx/utils.py, torch/csrc/jit/passes/onnx/deduplicate_initializers.cpp, onnxscript/rewriter (torch 2.13).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.formats.onnx.graph import subgraphs
from ckptconv.formats.onnx.inlined import inlined
from ckptconv.formats.onnx.lost import Lost, added_after, find_lost
from ckptconv.formats.onnx.lost import is_given as is_given
from ckptconv.formats.onnx.recurrent import Packed, find_packed
from ckptconv.formats.onnx.scopes import noted
from ckptconv.formats.onnx.walk import properties

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckptconv.formats.onnx.graph import Graph, Model, Node, TensorHeader
    from ckptconv.formats.onnx.wire import Window

_CONV_PARTS = re.compile(r"onnx::Conv(Transpose)?_\d+")
_DEDUPLICATED = re.compile(r"Identity_\d+")
_LINEAR = ["torch.nn.modules.linear.Linear", "aten.linear.default"]
_RULE, _FOLDING = "pkg.onnxscript.rewriter.rule_name", "FuseBatchNorm"


@dataclass(slots=True)
class Names:
    """What was found out about the main graph's initializers.

    inlined:    the graph's name → that without the prefix which it got as a graph was put into another.
    transposed: the graph's name → the model's, of matrices that are stored transposed.
    same:       a further name → the initializer that it is equal to.
    folded:     initializers with batch norm folded into them.
    packed:     names of a recurrent layer's tensors → where they are in its packed ones.
    lost:       tensors that keep a name that was made up, in the order in which the graph uses them.
    """

    inlined: dict[str, str] = field(default_factory=dict)
    transposed: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)
    packed: dict[str, Packed] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)

    def new_name(self, name: str) -> str:
        """The name that a tensor of the graph has among the model's."""
        return self.transposed.get(name) or self.inlined.get(name, name)


def find(model: Model, graph: Graph, window: Window) -> Names:
    """Names for the initializers of the main graph, and for any tensor with a prefix. Reads properties of few nodes."""
    names = Names(inlined(model, graph))
    if model.texts.get(2) != "pytorch":
        return names
    stored = {header.name: header for header in graph.initializers}
    matrices = {name for name, header in stored.items() if len(header.dims) == 2 and is_given(name)}
    uses = _uses([graph, *(inner for _, inner in subgraphs(graph)[1:])])
    outputs = set(_value_names(graph, window))
    for node in graph.nodes:
        if node.op == "MatMul" and len(node.inputs) == 2 and node.inputs[1] in matrices:
            weight = node.inputs[1]
            if len(uses[weight]) == 1 and (name := _linear(node, stored, uses, window)):
                names.transposed[weight] = name
        elif node.op == "Identity" and _DEDUPLICATED.fullmatch(node.name) and len(node.outputs) == 1:
            same, kept = node.outputs[0], node.inputs[0] if node.inputs else ""
            if kept in stored and same not in stored and same not in outputs and not is_given(same):
                names.same[same] = kept
        elif node.op in ("Conv", "ConvTranspose", "Gemm"):
            names.folded += [name for name in _folded(node, window) if name in stored and name not in names.folded]
    names.packed = find_packed(graph, uses, window)
    _drop_clashes(names, stored)
    known = {*names.transposed, *names.folded, *(one.stored for one in names.packed.values())}
    explained = {*known, *names.same.values()}
    names.inlined = {old: new for old, new in names.inlined.items() if old not in explained}
    names.lost = find_lost(graph, stored, uses, known, list(names.packed), window)
    return names


def _value_names(graph: Graph, window: Window) -> Iterable[str]:
    for begin, end in graph.outputs:
        for number, _, start, stop in window.fields(begin, end):
            if number == 1:
                yield window.text(start, stop)


def _uses(graphs: list[Graph]) -> dict[str, list[Node]]:
    uses: dict[str, list[Node]] = defaultdict(list)
    for graph in graphs:
        for node in graph.nodes:
            for name in node.inputs:
                uses[name].append(node)
    return uses


def _linear(node: Node, stored: dict[str, TensorHeader], uses: dict[str, list[Node]], window: Window) -> str | None:
    """The name of the weight of the Linear that a MatMul stands for; None where nothing proves one."""
    if node.properties:
        classes, scopes = noted(window, node)
        if classes[-2:] != _LINEAR or len(scopes) < 2:
            return None
        return f"{scopes[-2]}.weight" if scopes[-2] else "weight"
    added = added_after(node, uses)
    if added is None:
        return None
    bias = stored.get(added.inputs[0])
    scope = node.name.rpartition("/")[0]
    if bias is None or bias.dims != stored[node.inputs[1]].dims[1:] or added.name.rpartition("/")[0] != scope:
        return None
    module, _, last = bias.name.rpartition(".")
    if last != "bias" or not f".{module}".endswith(f".{scope.rpartition('/')[2]}"):
        return None
    return f"{module}.weight" if module else "weight"


def _folded(node: Node, window: Window) -> Sequence[str]:
    parts = [name for name in node.inputs[1:] if _CONV_PARTS.fullmatch(name)]
    if not parts and node.properties and properties(window, node).get(_RULE, "").startswith(_FOLDING):
        return node.inputs[1:]
    return parts


def _drop_clashes(names: Names, stored: dict[str, TensorHeader]) -> None:
    """Keep only what gives every name to one tensor."""
    wanted = Counter([*names.inlined.values(), *names.transposed.values(), *names.same, *names.packed])
    names.inlined = {old: new for old, new in names.inlined.items() if wanted[new] == 1}
    names.transposed = {old: new for old, new in names.transposed.items() if wanted[new] == 1 and new not in stored}
    names.same = {new: kept for new, kept in names.same.items() if wanted[new] == 1}
    if any(wanted[new] > 1 for new in names.packed):  # a packed tensor is taken apart whole or not at all
        names.packed = {}
