"""Keras' recurrent layers (LSTM, GRU, SimpleRNN, Bidirectional) and their cells.

    kernel [in, gates * units] → weight_ih     recurrent_kernel [units, gates * units] → weight_hh
    bias [gates * units] → bias_ih, and zeros as bias_hh: torch has two, and uses their sum
    bias [2, gates * units] of a GRU → bias_ih, bias_hh

The gates of an LSTM are in torch's order, those of a GRU are not. Where the name does not say which layer it is, the
number of gates does: four, three, one. A cell in a list of cells, or by itself, stays a cell.

Left as they are: a GRU with ``reset_after=False`` (it has one bias, and computes something else than torch's), a GRU
without a bias if nothing says which of the two it is, Keras 2's CuDNNLSTM and CuDNNGRU (transposed gate by gate),
convolutional layers, and cells with other variables.

Sources: keras/src/layers/rnn/lstm.py, gru.py, simple_rnn.py; Keras 2's hdf5_format.py (`_convert_rnn_weights`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, parts_of
from ckptconv.edits.dialects.recurrent import Path, Place, places
from ckptconv.edits.gates import KERAS, order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.dialects.change import Shape
    from ckptconv.edits.dialects.keras_config import Configuration

_KERNEL, _RECURRENT, _BIAS = "kernel", "recurrent_kernel", "bias"
_KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}
_CELL = re.compile(r"cell|(.+_)?(lstm|gru|rnn)_cell(_\d+)?")
_STACK = re.compile(r"cells|stacked_rnn_cells(_\d+)?")
_WORD_IN_NAME = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}


@dataclass(frozen=True, slots=True)
class _Layer:
    """The variables of one layer or cell, by Keras' words for them."""

    path: Path
    names: Mapping[str, str]
    shapes: Mapping[str, Shape]

    @property
    def units(self) -> int:
        return self.shapes[_RECURRENT][0]

    @property
    def gates(self) -> int:
        return self.shapes[_RECURRENT][1] // self.units

    @property
    def kind(self) -> str:
        """What torch calls it; "" if nothing in torch has such shapes."""
        if set(self.names) - {_BIAS} != {_KERNEL, _RECURRENT}:
            return ""
        kernel, recurrent = self.shapes[_KERNEL], self.shapes[_RECURRENT]
        if [len(kernel), len(recurrent)] != [2, 2] or kernel[1] != recurrent[1] or not self.units:
            return ""
        return _KINDS.get(self.gates, "") if recurrent[1] == self.gates * self.units else ""


def changes(paths: Mapping[str, Path], shapes: Mapping[Path, Shape], configuration: Configuration) -> dict[str, Change]:
    """The changes of the tensors of recurrent layers."""
    layers = {path: layer for path, layer in _layers(paths, shapes).items() if _RECURRENT in layer.names}
    problems = {path: _problem(layer, configuration) for path, layer in layers.items()}
    translatable = {path: layer for path, layer in layers.items() if not problems[path]}

    def place(path: Path) -> Place:
        if not (_CELL.fullmatch(path[-1]) or configuration.class_of(path[-1]).endswith("_cell")):
            return Place(path, "_l0")
        alone = len(path) == 1 or _STACK.fullmatch(path[-2])
        return Place(path, "") if alone else Place(path[:-1], "_l0")

    placed = places({path: tuple(sorted(layer.shapes.items())) for path, layer in translatable.items()}, place)
    changed: dict[str, Change] = {}
    for path, layer in layers.items():
        if path in placed:
            changed |= _layer_changes(layer, placed[path])
            continue
        why = f"{'.'.join(path)} stays as Keras has it: {problems[path]}"
        changed |= {name: Change(names=(".".join((*path, word)),), note=why) for word, name in layer.names.items()}
    return changed


def _layers(paths: Mapping[str, Path], shapes: Mapping[Path, Shape]) -> dict[Path, _Layer]:
    words: dict[Path, dict[str, str]] = defaultdict(dict)
    for name, path in paths.items():
        if len(path) > 1:
            words[path[:-1]][path[-1]] = name
    return {path: _Layer(path, names, {word: shapes[*path, word] for word in names}) for path, names in words.items()}


def _problem(layer: _Layer, configuration: Configuration) -> str:
    """Why torch cannot have this layer; "" if it can."""
    kind, bias = layer.kind, layer.shapes.get(_BIAS)
    name = layer.path[-1]
    words = name.split("_") if _CELL.fullmatch(name) else []
    named_kinds = {named for named, word in _WORD_IN_NAME.items() if word in words}
    if not kind or (named_kinds and kind not in named_kinds):
        return "its variables or their shapes fit no torch layer"
    columns = layer.gates * layer.units
    if bias == (2 * columns,) and kind != "RNN":
        return f"it is a CuDNN{kind}, whose layout is another"
    if kind != "GRU":
        return "" if bias in (None, (columns,)) else "its bias fits no torch layer"
    resets = configuration.resets_after(reversed(layer.path)) if bias is None else bias == (2, columns)
    if bias not in (None, (columns,), (2, columns)):
        return "its bias fits no torch layer"
    if resets is None:
        return "nothing says whether this GRU without a bias has reset_after, as torch's"
    return "" if resets else "it is a GRU with reset_after=False, and torch's computes something else"


def _layer_changes(layer: _Layer, place: Place) -> dict[str, Change]:
    gates = order(layer.kind, KERAS)
    sorted_already = gates == tuple(range(len(gates)))

    def change(word: str, *targets: str) -> Change:
        names = tuple(place(target) for target in targets)
        joined = {} if sorted_already else {name: tuple(parts_of(name, len(gates))[i] for i in gates) for name in names}
        axes = (1, 0) if word != _BIAS else None
        return Change(names=names, axes=axes, parts=1 if sorted_already else len(gates), joined=joined)

    changed = {
        layer.names[_KERNEL]: change(_KERNEL, "weight_ih"),
        layer.names[_RECURRENT]: change(_RECURRENT, "weight_hh"),
    }
    if layer.kind == "GRU" and _BIAS in layer.names:
        changed[layer.names[_BIAS]] = change(_BIAS, "bias_ih", "bias_hh")
    elif _BIAS in layer.names:
        changed[layer.names[_BIAS]] = Change(names=(place("bias_ih"),), zeros=(place("bias_hh"),))
    return changed
