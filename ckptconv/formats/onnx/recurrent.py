"""LSTM, GRU and RNN: ONNX packs what torch keeps apart, and has the gates in another order.

    ONNX      W [directions, gates*hidden, inputs]  R [directions, gates*hidden, hidden]
              B [directions, 2*gates*hidden]
    torch     weight_ih_l0  weight_hh_l0  bias_ih_l0  bias_hh_l0, and the same with _reverse, for each layer
    gates     in other orders (`ckptconv.edits.gates`);  B is that of W, then that of R

The module's name is what torch's newer exporter notes on the node. The older one leaves the scopes of the modules that
were called, which is not all of a name: what it packed is unpacked under the node's name. The layers of one module are
its nodes in the graph's order. Nothing is unpacked where a node's tensors are used elsewhere too, or have other shapes.

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
from ckptconv.formats.onnx.scopes import noted
from ckptconv.io.pieces import Piece, Pieces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.formats.onnx.graph import Graph, Node, TensorHeader
    from ckptconv.formats.onnx.wire import Window

GATES = {kind: order(kind, ONNX) for kind in ONNX}
"""For each of torch's gates, in its order, the place that it has in ONNX."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One tensor of torch's in the packed one `stored`: block `block` of `blocks` rows, its gates reordered.

    shape: torch's.
    """

    stored: str
    block: int
    blocks: int
    gates: tuple[int, ...]
    shape: tuple[int, ...]

    def unpacked(self, tensor: LazyTensor, name: str) -> LazyTensor:
        """The tensor, read from the packed one."""
        size = tensor.info.nbytes // self.blocks
        gate = size // len(self.gates)
        base = self.block * size
        pieces = Pieces([Piece(tensor, base + g * gate, base + (g + 1) * gate) for g in self.gates])
        info = TensorInfo.of(tensor.info.dtype, self.shape)
        return LazyTensor(info, pieces, None, (tensor.alias, name), pieces.depends)


def find_packed(graph: Graph, uses: Mapping[str, Sequence[Node]], window: Window) -> dict[str, Packed]:
    """Names as torch has them for what the recurrent nodes of the main graph hold."""
    stored = {header.name: header for header in graph.initializers}
    modules: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op in GATES and node.domain in ("", "ai.onnx") and len(node.inputs) >= 3:
            module = _module(node, window)
            if module is not None:
                modules[f"{node.op}:{module}"].append(node)
    found: dict[str, Packed] = {}
    for key, nodes in modules.items():
        rows = [_layer(node, layer, stored, uses) for layer, node in enumerate(nodes)]
        if all(rows) and _follow(nodes, stored):
            module = key.partition(":")[2]
            start = f"{module}." if module else ""
            found |= {start + name: packed for row in rows for name, packed in row.items()}
    return {name: packed for name, packed in found.items() if name not in stored}


def _module(node: Node, window: Window) -> str | None:
    """The name of the module that the node stands for, or the node's own; None where neither is certain."""
    if node.properties:
        classes, scopes = noted(window, node)
        proven = len(classes) >= 2 and classes[-2] == f"torch.nn.modules.rnn.{node.op}" and len(scopes) >= 2
        return scopes[-2] if proven else None
    scope, _, last = node.name.rpartition("/")
    if not node.name.startswith("/") or not re.fullmatch(rf"{node.op}(_\d+)?", last):
        return None
    return f"{scope}/{node.op}"


def _layer(
    node: Node, layer: int, stored: Mapping[str, TensorHeader], uses: Mapping[str, Sequence[Node]]
) -> dict[str, Packed]:
    """What one node holds; {} where its tensors are not what torch's exporters make."""
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
    found: dict[str, Packed] = {}
    for direction in range(directions):
        end = f"l{layer}{'_reverse' if direction else ''}"
        found[f"weight_ih_{end}"] = Packed(names[0], direction, directions, gates, (rows, inputs))
        found[f"weight_hh_{end}"] = Packed(names[1], direction, directions, gates, (rows, hidden))
        if bias is not None:
            found[f"bias_ih_{end}"] = Packed(names[2], 2 * direction, 2 * directions, gates, (rows,))
            found[f"bias_hh_{end}"] = Packed(names[2], 2 * direction + 1, 2 * directions, gates, (rows,))
    return found


def _follow(nodes: Sequence[Node], stored: Mapping[str, TensorHeader]) -> bool:
    """Whether each layer takes what the one before it gives: else they are calls of several modules."""
    for before, after in pairwise(nodes):
        directions, _, hidden = stored[before.inputs[2]].dims
        if stored[after.inputs[1]].dims[2] != directions * hidden:
            return False
    return True
