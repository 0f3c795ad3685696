"""The tensors of torch's dynamically quantized recurrent layers, which are objects of C++ in their state_dicts.

    M._all_weight_values.N.param      a layer's and a direction's: biases, and packed weights with the same biases
        .1.0 .1.1                       bias_ih, bias_hh; in 16 bits there are none here
        .4.0.0 .4.1.0                   weight_ih, weight_hh
        .4.0.1 .4.1.1                   the biases again, or in 16 bits alone
    M._packed_weight_ih, …_hh         a cell's: .0 the weight, .1 the bias

They become ``M.weight_ih_l0``, ``M.weight_ih_l0_reverse`` and so on. Layers are numbered one after another, both
directions of each side by side; how many directions there are follows from the inputs of the second layer.
Source: torch/ao/nn/quantized/dynamic/modules/rnn.py; ATen/native/quantized/cpu/RNN.cpp (`CellParamsBase`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

    Infos = Mapping[str, TensorInfo]

_WORDS = ("_all_weight_values.", "_packed_weight_")
_CELL = re.compile(r"((?:.+\.)?)_packed_weight_(ih|hh)\.([01])")
_LAYER = re.compile(r"((?:.+\.)?)_all_weight_values\.(\d{1,4})\.param\.(1\.[01]|4\.[01]\.[01])")
ENTRY = re.compile(r"(?:(.+)\.)?(?:_packed_weight_(?:ih|hh)|_all_weight_values\.\d+\.param)")
"""The keys of such objects, and the module that each belongs to."""

_WEIGHTS = {"4.0.0": "ih", "4.1.0": "hh"}
_BIASES = {"1.0": "ih", "1.1": "hh"}
_PACKED_BIASES = {"4.0.1": "ih", "4.1.1": "hh"}


def recurrent_names(infos: Infos) -> tuple[dict[str, str], list[str], str]:
    """The plain names of the tensors; those that are there twice; and the first layer of which it is not certain how
    many directions it has, "" if there is none.
    """
    names: dict[str, str] = {}
    layers: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in infos:
        if not any(word in name for word in _WORDS):
            continue
        if cell := _CELL.fullmatch(name):
            names[name] = f"{cell[1]}{'bias' if cell[3] == '1' else 'weight'}_{cell[2]}"
        elif layer := _LAYER.fullmatch(name):
            layers[layer[1]][int(layer[2])][layer[3]] = name
    twice: list[str] = []
    unclear = ""
    for module, numbered in layers.items():
        is_whole = all(_WEIGHTS.keys() <= parts.keys() for parts in numbered.values())
        if not is_whole or not (directions := _directions(_shapes(numbered, infos))):
            unclear = unclear or module.rstrip(".")
            continue
        for number, parts in numbered.items():
            end = f"_l{number // directions}" + ("_reverse" if number % directions else "")
            has_biases = _BIASES.keys() <= parts.keys()
            biases = _BIASES if has_biases else _PACKED_BIASES
            names |= {parts[part]: f"{module}weight_{side}{end}" for part, side in _WEIGHTS.items()}
            names |= {parts[part]: f"{module}bias_{side}{end}" for part, side in biases.items() if part in parts}
            twice += [parts[part] for part in _PACKED_BIASES if has_biases and part in parts]
    return names, twice, unclear


def _shapes(numbered: Mapping[int, Mapping[str, str]], infos: Infos) -> list[tuple[int, ...]]:
    """The shapes of weight_ih and weight_hh of each layer and direction; none if a number is missing."""
    if sorted(numbered) != list(range(len(numbered))):
        return []
    return [infos[numbered[number][part]].shape for number in range(len(numbered)) for part in _WEIGHTS]


def _directions(shapes: list[tuple[int, ...]]) -> int:
    """How many directions a layer has, by the shapes of weight_ih and weight_hh one after another; 0 if that is not
    certain.
    """
    pairs = list(zip(shapes[::2], shapes[1::2], strict=False))
    if not pairs or any(len(shape) != 2 for shape in shapes):
        return 0
    inputs, units = [ih[1] for ih, _ in pairs], pairs[0][1][1]
    if any(ih[0] != hh[0] or hh[1] != units for ih, hh in pairs):
        return 0
    fits = [
        count
        for count in (1, 2)
        if len(pairs) % count == 0
        and len(set(inputs[:count])) == 1
        and all(size == count * units for size in inputs[count:])
    ]
    return fits[0] if len(fits) == 1 else 0
