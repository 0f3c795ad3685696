"""torchao's weights as bookkeeping of the checkpoint, and the metadata without what spoke of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque, StateDict, TensorRef
from ckptconv.core.notes import UNREAD, VALUES, QuantizedWeight
from ckptconv.core.tensor import infos_of
from ckptconv.edits.quantized.torchao.classes import SCHEME, UnknownLayout, described
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
    known = {one.values for one in notes.quantized}
    weights, beside = list(notes.quantized), list(notes.between)
    for name, wrapped in found.items():
        weight, more = _weight(name, wrapped, infos)
        if weight is not None and weight.values not in known:
            weights.append(weight)
            beside += more
    if len(weights) > len(notes.quantized):
        checkpoint.notes = replace(notes, quantized=tuple(weights), between=tuple(beside))
    return checkpoint


def _weight(name: str, one: Wrapped, infos: Mapping[str, TensorInfo]) -> tuple[QuantizedWeight | None, list[str]]:
    """A weight of the model, and its tensors for activations."""
    called = f"torchao's {one.kind}"
    try:
        found = described(one, infos)
        if missing := [part for part, tensor in found.parts.items() if tensor not in infos]:
            raise UnknownLayout(f"of which the {missing[0]} is not there")
    except UnknownLayout as error:
        tensors = [tensor for tensor in one.every_tensor if tensor in infos]
        if not tensors:
            return None, []
        return QuantizedWeight(name, UNREAD, {VALUES: tensors[0]}, {"why": str(error)}, called), []
    return QuantizedWeight(name, SCHEME, found.parts, found.details, called), [
        tensor for tensor in found.beside if tensor in infos
    ]


@dataclass(frozen=True, slots=True)
class Changes:
    """What no longer is as the metadata says.

    plain: names of weights that are plain now, by those of the tensors that they were made of.
    left_out: names of tensors.
    """

    plain: Mapping[str, str]
    left_out: Collection[str]

    def applied_to(self, node: MetaNode) -> MetaNode:
        """The metadata without what was said of these.

        An object that stood in the state_dict goes, since the weight stands there; elsewhere the weight stands in its
        place.
        """
        return self._without_texts(node) if isinstance(node, dict) and NAMES in node else self._rebuilt(node)

    def _without_texts(self, metadata: dict[object, MetaNode]) -> MetaNode:
        names = listed_names(metadata)
        if set(self.plain.values()).isdisjoint(names):
            return metadata
        kept = {key: value for key, value in metadata.items() if key != NAMES and key not in names}
        alone = list(kept.values())
        return alone[0] if len(alone) == 1 and isinstance(alone[0], StateDict) else kept

    def _target(self, tensors: list[str]) -> str | None:
        return next((self.plain[name] for name in tensors if name in self.plain), None)

    def _goes(self, node: MetaNode) -> bool:
        tensors = of_object(node).every_tensor if isinstance(node, Opaque) and is_tensor(node) else []
        return self._target(tensors) is not None or bool(tensors and all(name in self.left_out for name in tensors))

    def _rebuilt(self, node: MetaNode) -> MetaNode:
        match node:
            case Opaque() if is_tensor(node):
                name = self._target(of_object(node).every_tensor)
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
                    (place, key, self._rebuilt(value)) for place, key, value in node.plain if not self._goes(value)
                )
                return replace(node, plain=tuple(kept_values))
        return node
