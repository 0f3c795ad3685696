"""Notes torchao's weights in a checkpoint, and removes them from the metadata once they are plain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque, StateDict, TensorRef
from ckptconv.core.notes import UNREAD, VALUES, QuantizedWeight
from ckptconv.core.tensor import infos_of
from ckptconv.edits.quantized.torchao.classes import SCHEME, UnknownLayout, describe
from ckptconv.edits.quantized.torchao.marks import NAMES
from ckptconv.edits.quantized.torchao.wrapped import is_tensor, listed_names, objects_in, of_object, texts_in

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.quantized.torchao.wrapped import Wrapped


def with_weights(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint that mentions torchao (`marks`), with torchao's weights in its notes if it has any."""
    metadata = checkpoint.root
    found = dict(texts_in(metadata) if isinstance(metadata, dict) and NAMES in metadata else objects_in(metadata))
    infos, notes = infos_of(checkpoint), checkpoint.notes
    known = {weight.values for weight in notes.quantized}
    weights, for_activations = list(notes.quantized), list(notes.between)
    for name, wrapped in found.items():
        weight, beside = _weight(name, wrapped, infos)
        if weight is not None and weight.values not in known:
            weights.append(weight)
            for_activations += beside
    if len(weights) > len(notes.quantized):
        checkpoint.notes = replace(notes, quantized=tuple(weights), between=tuple(for_activations))
    return checkpoint


def _weight(name: str, wrapped: Wrapped, infos: Mapping[str, TensorInfo]) -> tuple[QuantizedWeight | None, list[str]]:
    """The note about a weight, and the names of its tensors for activations."""
    method = f"torchao's {wrapped.kind}"
    try:
        found = describe(wrapped, infos)
        if missing := [part for part, tensor in found.parts.items() if tensor not in infos]:
            raise UnknownLayout(f"of which the {missing[0]} is not there")
    except UnknownLayout as error:
        tensors = [tensor for tensor in wrapped.every_tensor if tensor in infos]
        if not tensors:
            return None, []
        return QuantizedWeight(name, UNREAD, {VALUES: tensors[0]}, {"why": str(error)}, method), []
    return QuantizedWeight(name, SCHEME, found.parts, found.details, method), [
        tensor for tensor in found.beside if tensor in infos
    ]


@dataclass(frozen=True, slots=True)
class Changes:
    """Weights that are plain now, and tensors that are gone, which the metadata still mention.

    plain:    the names of weights that are plain now, by the names of the tensors that they were made from.
    left_out: the names of tensors that are gone.
    """

    plain: Mapping[str, str]
    left_out: Collection[str]

    def applied_to(self, node: MetaNode) -> MetaNode:
        """The metadata without them.

        An object in the state_dict is removed, since the weight is there now; elsewhere the weight takes its place.
        """
        return self._without_texts(node) if isinstance(node, dict) and NAMES in node else self._rebuilt(node)

    def _without_texts(self, metadata: dict[object, MetaNode]) -> MetaNode:
        names = listed_names(metadata)
        if set(self.plain.values()).isdisjoint(names):
            return metadata
        kept = {key: value for key, value in metadata.items() if key != NAMES and key not in names}
        values = list(kept.values())
        return values[0] if len(values) == 1 and isinstance(values[0], StateDict) else kept

    def _plain_name(self, tensors: list[str]) -> str | None:
        return next((self.plain[name] for name in tensors if name in self.plain), None)

    def _is_gone(self, node: MetaNode) -> bool:
        tensors = of_object(node).every_tensor if isinstance(node, Opaque) and is_tensor(node) else []
        return self._plain_name(tensors) is not None or bool(tensors and all(name in self.left_out for name in tensors))

    def _rebuilt(self, node: MetaNode) -> MetaNode:
        match node:
            case Opaque() if is_tensor(node):
                name = self._plain_name(of_object(node).every_tensor)
                return node if name is None else TensorRef(name)
            case dict():
                kept = node.copy()
                kept.update({key: self._rebuilt(value) for key, value in node.items()})
                return kept
            case list():
                return [self._rebuilt(child) for child in node]
            case tuple() if type(node) is tuple:
                return tuple(map(self._rebuilt, node))
            case Opaque():
                return replace(
                    node, args=tuple(map(self._rebuilt, node.args)), state=self._rebuilt(node.state),
                    kwargs={key: self._rebuilt(child) for key, child in node.kwargs.items()},
                    items=list(map(self._rebuilt, node.items)),
                    pairs=[(key, self._rebuilt(child)) for key, child in node.pairs],
                )  # fmt: skip
            case StateDict():
                kept_values = (
                    (place, key, self._rebuilt(value)) for place, key, value in node.plain if not self._is_gone(value)
                )
                return replace(node, plain=tuple(kept_values))
        return node
