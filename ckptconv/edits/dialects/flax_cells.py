"""Flax's recurrent cells, which have one layer for each gate of the input and of the state.

    LSTMCell, OptimizedLSTMCell    ii if ig io kernels; hi hf hg ho kernels and biases
    GRUCell                        ir iz in kernels and biases; hr hz hn kernels, and a bias for hn alone
    SimpleCell                     i kernel and bias; h kernel

Kernels are [in, units]. Those of the input, one after another, are torch's ``weight_ih``, and those of the state its
``weight_hh``; biases that Flax does not have become zeros. A cell gets the names of torch.nn.LSTMCell, unless it is the
attribute ``cell`` of a flax.linen.RNN: then it gets the names of that layer, and the two RNNs of a Bidirectional become
its directions. The gates of a MGUCell become separate linear layers, since torch has no such cell.

Source: flax/linen/recurrent.py.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, parts_of
from ckptconv.edits.dialects.recurrent import Path, Place, places
from ckptconv.edits.gates import TORCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.dialects.change import Shape

_GATES = {**{kind: TORCH[kind] for kind in ("LSTM", "GRU")}, "RNN": ("",)}
_BIASES = {"LSTM": {"hi", "hf", "hg", "ho"}, "GRU": {"ir", "iz", "in", "hn"}, "RNN": {"i"}}
"""The layers that have a bias."""

_Entries = dict[tuple[str, str], str]
"""The names of a cell's tensors, by layer and ``kernel`` or ``bias``."""


def changes(paths: Mapping[str, Path], shapes: Mapping[str, Shape]) -> dict[str, Change]:
    """The changes of the tensors of recurrent cells. A path is the modules, the layer, and ``kernel`` or ``bias``."""
    modules: dict[Path, _Entries] = defaultdict(dict)
    for name, path in paths.items():
        if len(path) > 2:
            modules[path[:-2]][path[-2], path[-1]] = name
    kinds = {path: _kind(entries, shapes) for path, entries in modules.items()}
    sizes = {
        path: (kind, tuple(sorted((part, shapes[name]) for part, name in modules[path].items())))
        for path, kind in kinds.items()
        if kind
    }
    changed: dict[str, Change] = {}
    for path, place in places(sizes, _place).items():
        changed |= _cell_changes(modules[path], kinds[path], place)
    return changed


def _place(path: Path) -> Place:
    return Place(path[:-1], "_l0") if path[-1] == "cell" and len(path) > 1 else Place(path, "")


def _kind(entries: _Entries, shapes: Mapping[str, Shape]) -> str:
    """The kind of cell that has exactly these tensors; "" if none does."""
    for kind, gates in _GATES.items():
        layers = {side + gate for gate in gates for side in "ih"}
        if entries.keys() == {(layer, "kernel") for layer in layers} | {(layer, "bias") for layer in _BIASES[kind]}:
            units = shapes[entries[f"h{gates[0]}", "kernel"]][-1:]
            inputs = shapes[entries[f"i{gates[0]}", "kernel"]][:1]
            wanted = {"kernel": {"i": (*inputs, *units), "h": (*units, *units)}, "bias": dict.fromkeys("ih", units)}
            fits = all(shapes[name] == wanted[word][layer[0]] for (layer, word), name in entries.items())
            return kind if fits else ""
    return ""


def _cell_changes(entries: _Entries, kind: str, place: Place) -> dict[str, Change]:
    gates = _GATES[kind]
    parts = {
        word: parts_of(place(word), len(gates)) if len(gates) > 1 else (place(word),)
        for word in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    joined = {place(word): names for word, names in parts.items() if len(gates) > 1}
    changed: dict[str, Change] = {}
    for i, gate in enumerate(gates):
        for side, other in (("i", "h"), ("h", "i")):
            kernel = entries[side + gate, "kernel"]
            changed[kernel] = Change(names=(parts[f"weight_{side}h"][i],), axes=(1, 0), joined=joined)
            joined = {}
            if side + gate in _BIASES[kind]:
                is_missing = other + gate not in _BIASES[kind]
                zeros = (parts[f"bias_{other}h"][i],) if is_missing else ()
                changed[entries[side + gate, "bias"]] = Change(names=(parts[f"bias_{side}h"][i],), zeros=zeros)
    return changed
