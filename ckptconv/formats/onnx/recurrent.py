"""LSTM, GRU and RNN: ONNX packs tensors that torch keeps apart, and orders the gates differently.

    ONNX      W [directions, gates*hidden, inputs]  R [directions, gates*hidden, hidden]
              B [directions, 2*gates*hidden]
    torch     weight_ih_l0  weight_hh_l0  bias_ih_l0  bias_hh_l0, and the same with _reverse, for each layer
    gates     in other orders (`ckptconv.edits.gates`);  B holds the biases of W, then those of R

The newer of torch's exporters notes the module's name on the node. The older one leaves the scopes of the modules that
were called, which is not the whole name: there, tensors are unpacked under the node's name. The layers of a module are
its nodes in the graph's order. Nothing is unpacked if a node's tensors are also used elsewhere, or have other shapes.

Source: github.com/onnx/onnx, docs/Operators.md (LSTM, GRU, RNN); torch.nn.LSTM, torch.nn.GRU.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.edits.gates import ONNX, order
from ckptconv.formats.onnx.scopes import read_scopes
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.formats.onnx.graph import Graph, Node, TensorHeader
    from ckptconv.formats.onnx.wire import Window

GATES = {kind: order(kind, ONNX) for kind in ONNX}
"""For each gate, in torch's order, its index in ONNX."""


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A torch tensor inside of the packed ONNX tensor `stored`: block `block` of `blocks`, its gates in another order.

    gates: for each gate, in torch's order, its index in the block.
    shape: the shape in torch.
    """

    stored: str
    block: int
    blocks: int
    gates: tuple[int, ...]
    shape: tuple[int, ...]

    def unpack(self, packed: LazyTensor, name: str) -> LazyTensor:
        """The torch tensor, read from the packed one."""
        block_size = packed.info.nbytes // self.blocks
        gate_size = block_size // len(self.gates)
        base = self.block * block_size
        starts = [base + gate * gate_size for gate in self.gates]
        pieces = Pieces([Piece(packed, start, start + gate_size) for start in starts])
        info = TensorInfo.of(packed.info.dtype, self.shape)
        return LazyTensor(info, pieces, None, (packed.alias, name), pieces.depends)


def find_packed_tensors(graph: Graph, uses: Mapping[str, Sequence[Node]], window: Window) -> dict[str, PackedTensor]:
    """The torch tensors that the recurrent nodes of the main graph hold, by torch's names."""
    stored = {header.name: header for header in graph.initializers}
    modules: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op in GATES and node.domain in ("", "ai.onnx") and len(node.inputs) >= 3:
            module = _module_name(node, window)
            if module is not None:
                modules[node.op, module].append(node)
    found: dict[str, PackedTensor] = {}
    for (_, module), nodes in modules.items():
        layers = [_layer_tensors(node, layer, stored, uses) for layer, node in enumerate(nodes)]
        if all(layers) and _are_consecutive(nodes, stored):
            prefix = f"{module}." if module else ""
            found |= {prefix + name: packed for tensors in layers for name, packed in tensors.items()}
    return {name: packed for name, packed in found.items() if name not in stored}


def _module_name(node: Node, window: Window) -> str | None:
    """The name of the module that the node stands for, or the node's own; None if neither is certain."""
    if node.properties:
        classes, names = read_scopes(window, node)
        is_proven = len(classes) >= 2 and classes[-2] == f"torch.nn.modules.rnn.{node.op}" and len(names) >= 2
        return names[-2] if is_proven else None
    scope, _, last = node.name.rpartition("/")
    if not node.name.startswith("/") or not re.fullmatch(rf"{node.op}(_\d+)?", last):
        return None
    return f"{scope}/{node.op}"


def _layer_tensors(
    node: Node, layer: int, stored: Mapping[str, TensorHeader], uses: Mapping[str, Sequence[Node]]
) -> dict[str, PackedTensor]:
    """The torch tensors that one node holds; {} if its tensors are not what torch's exporters make."""
    gates = GATES[node.op]
    names = [*node.inputs[1:4], ""][:3]
    headers = [stored.get(name) for name in names]
    weights, recurrent, bias = headers
    if weights is None or recurrent is None or (names[2] and bias is None):
        return {}
    if any(len(uses[name]) != 1 for name in names if name):
        return {}
    if len(weights.dims) != 3 or len(recurrent.dims) != 3:
        return {}
    directions, rows, inputs = weights.dims
    hidden = recurrent.dims[2]
    if directions not in (1, 2) or rows != len(gates) * hidden or recurrent.dims != [directions, rows, hidden]:
        return {}
    if bias is not None and bias.dims != [directions, 2 * rows]:
        return {}
    found: dict[str, PackedTensor] = {}
    for direction in range(directions):
        end = f"l{layer}{'_reverse' if direction else ''}"
        found[f"weight_ih_{end}"] = PackedTensor(names[0], direction, directions, gates, (rows, inputs))
        found[f"weight_hh_{end}"] = PackedTensor(names[1], direction, directions, gates, (rows, hidden))
        if bias is not None:
            found[f"bias_ih_{end}"] = PackedTensor(names[2], 2 * direction, 2 * directions, gates, (rows,))
            found[f"bias_hh_{end}"] = PackedTensor(names[2], 2 * direction + 1, 2 * directions, gates, (rows,))
    return found


def _are_consecutive(nodes: Sequence[Node], stored: Mapping[str, TensorHeader]) -> bool:
    """Whether each layer's input size is the output size of the layer before: if not, they are several modules."""
    for before, after in pairwise(nodes):
        directions, _, hidden = stored[before.inputs[2]].dims
        if stored[after.inputs[1]].dims[2] != directions * hidden:
            return False
    return True
