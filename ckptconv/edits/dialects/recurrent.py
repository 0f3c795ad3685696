"""The names of recurrent layers' and cells' weights in torch, whatever framework they are from.

    encoder.weight_ih_l0                                   a layer; its cell is not a module of its own in torch
    encoder.weight_ih_l0, encoder.weight_ih_l0_reverse     encoder.forward_…, encoder.backward_…
    cell.weight_ih                                         a cell by itself, as torch.nn.LSTMCell names it

Source: torch/nn/modules/rnn.py.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

Path = tuple[str, ...]

_FORWARD, _BACKWARD = "forward_", "backward_"


@dataclass(frozen=True, slots=True)
class Place:
    """The torch module that holds the weights, and how their names end."""

    module: Path
    end: str

    def __call__(self, word: str) -> str:
        """The full name of a weight, such as ``weight_ih``."""
        return ".".join((*self.module, word + self.end))


def places(found: Mapping[Path, Hashable], place: Callable[[Path], Place]) -> dict[Path, Place]:
    """Where the weights under each path go in torch.

    found: the kind and sizes of what is under each path; if two are equal, they may be the two directions of one layer.
    """
    placed = {path: place(path) for path in found}
    siblings: dict[Path, list[Path]] = defaultdict(list)
    for path, own in placed.items():
        if own.end and len(own.module) > 1 and own.module[-1].startswith((_FORWARD, _BACKWARD)):
            siblings[own.module[:-1]].append(path)
    for parent, paths in siblings.items():
        ordered = sorted(paths, key=lambda path: placed[path].module[-1])
        starts = [placed[path].module[-1].partition("_")[0] + "_" for path in ordered]
        if starts != [_BACKWARD, _FORWARD]:
            continue
        backward, forward = ordered
        if found[backward] == found[forward]:
            placed |= {forward: Place(parent, "_l0"), backward: Place(parent, "_l0_reverse")}
    return placed
