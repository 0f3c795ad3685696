"""Finds the batch norms of one set of tensors that were folded into the weights of another.

Exporters give the folded tensors names of their own (``onnx::Conv_193``), and only the order of layers, which a
state_dict does not tell, says which norm follows which layer. The values do: a folded weight is the old one, every
output of it times a number; these numbers are those of one norm, and tell its eps; and with them, the folded bias has
to come out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.edit import Step
from ckptconv.edits.batch_norms.folded import ROLES, bias_of, scales_of, whole
from ckptconv.edits.patterns import edits_by_pattern
from ckptconv.edits.scaled import FLOATS, wide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.core.edit import Edit
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

    Tensors = Mapping[str, LazyTensor]

USUAL_EPS = (1e-5, 1e-3, 1e-6, 1e-4, 1e-2, 1e-8)
"""Those of torch, Keras, and others. Any other is found by what the numbers say."""

MOST_LAYERS = 8
"""So many layers are tried for a norm: those nearest before it first."""

MOST_PARTNERS = 16
"""So many new tensors are tried for a layer's weight or bias, in their order: exporters keep that of the layers."""

MOST_MISSES = 32
"""If the first norms, so many of them, were not folded, none was."""

MOST_READ = 16 << 20
"""Larger weights are not read whole, but the first elements of each output. Transposed convolutions, whose outputs are
not in one piece, are read whole up to four times that size, and not looked at beyond.
"""

MOST_OUTPUTS = 1 << 20
"""Norms of more outputs are not looked at: all of their tensors are held in memory."""

SAMPLE = 16
"""Elements of each output that are looked at."""

TOLERANCE = {DType.F64: 1e-5, DType.F32: 1e-5, DType.F16: 8e-3, DType.BF16: 6e-2}
"""How far values may be from the expected ones, relative to the largest of their row, by the type they were rounded to:
some 16 units of roundoff, and for F64 those of F32, in which it may have been computed.
"""


@dataclass(frozen=True, slots=True)
class _Norm:
    """A batch norm: its tensors' names by role, the place of the first, how many outputs it is for, and its counter."""

    parts: Mapping[str, str]
    place: int
    outputs: int
    counter: str | None


def find_folds(a: Tensors, b: Tensors) -> list[Edit]:
    """The edits that fold the norms of `a` that are folded in `b`, and give weights and biases their names in `b`.

    Reads nothing if `b` has the norms as well, or `a` has none; else all norms and the layers near them, or parts of
    these.
    """
    norms = list(_lost_norms(a, b))
    return _Search(a, b).run(norms) if norms else []


def _lost_norms(a: Tensors, b: Tensors) -> Iterator[_Norm]:
    """The norms of `a` of which `b` has no running variance of that name."""
    places = {name: place for place, name in enumerate(a)}
    for name in a:
        module, _, last = name.rpartition(".")
        if last != "running_var" or name in b or f"{module}.running_mean" not in a:
            continue
        names = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
        parts = {role: f"{module}.{end}" for role, end in names.items() if f"{module}.{end}" in a}
        infos = [a[part].info for part in parts.values()]
        is_norm = len({info.shape for info in infos}) == 1 and len(infos[0].shape) == 1
        is_norm = is_norm and infos[0].numel <= MOST_OUTPUTS
        if is_norm and all(info.dtype in FLOATS for info in infos):
            counter = f"{module}.num_batches_tracked"
            place = min(places[part] for part in parts.values())
            yield _Norm(parts, place, infos[0].shape[0], counter if counter in a else None)


class _Search:
    """Looks for folds; a tensor that takes part in one is in no other."""

    def __init__(self, a: Tensors, b: Tensors) -> None:
        self.a, self.b = a, b
        self._layers = _layers_by_outputs(a)
        self._by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, tensor in b.items():
            if tensor.info.dtype in FLOATS:
                self._by_shape[tensor.info.shape].append(name)
        self._places = {name: place for place, name in enumerate(b)}
        self._rows: dict[tuple[int, int], Array] = {}
        self._used: set[str] = set()

    def run(self, norms: Iterable[_Norm]) -> list[Edit]:
        """The edits for those of the norms that were folded."""
        groups: dict[str, tuple[dict[str, Json], list[Step]]] = {}
        counters: list[Step] = []
        misses = 0
        for norm in norms:
            found = self._fold(norm)
            misses += found is None
            if not groups and misses == MOST_MISSES:
                return []
            if found is not None:
                step, details = found
                groups.setdefault(repr(details), (details, []))[1].append(step)
                counters += [Step((norm.counter,), ())] if norm.counter else []
        folds = [
            edit for details, steps in groups.values() for edit in edits_by_pattern("fold-batch-norm", steps, details)
        ]
        return [*folds, *edits_by_pattern("drop", counters)]

    def _fold(self, norm: _Norm) -> tuple[Step, dict[str, Json]] | None:
        """The step that folds a norm into the layer before it, and its details; None if it was not folded."""
        for name, axis in self._layers_near(norm):
            for target in self._partners(name):
                scales = self._scales(name, target, axis)
                eps = None if scales is None else self._eps(norm, scales, target)
                if eps is None:
                    continue
                parts = {"weight": name} | self._bias_of_layer(name, norm) | dict(norm.parts)
                bias = self._folded_bias({role: self.a[part] for role, part in parts.items()}, eps, target)
                if bias is not None:
                    self._used |= {name, target, bias, *parts.values()}
                    roles = [role for role in ROLES if role in parts]
                    details: dict[str, Json] = {"parts": [*roles], "eps": eps, "axis": axis}
                    return Step(tuple(parts[role] for role in roles), (target, bias)), details
        return None

    def _layers_near(self, norm: _Norm) -> list[tuple[str, int]]:
        """The weights that the norm may follow, with the dimension of their outputs, the nearest before it first."""
        free = [layer for layer in self._layers[norm.outputs] if layer[1] not in self._used]
        nearest = sorted(free, key=lambda layer: (layer[0] > norm.place, abs(norm.place - layer[0])))
        return [(name, axis) for _, name, axis in nearest[:MOST_LAYERS]]

    def _partners(self, name: str) -> list[str]:
        """The tensors of `b` that may be the folded weight: that of the same name, or else new ones of its shape."""
        alike = [other for other in self._by_shape[self.a[name].info.shape] if other not in self._used]
        return [name] if name in alike else [other for other in alike if other not in self.a][:MOST_PARTNERS]

    def _bias_of_layer(self, weight: str, norm: _Norm) -> dict[str, str]:
        module, _, last = weight.rpartition(".")
        name = f"{module}.bias"
        has_one = last == "weight" and name in self.a and self.a[name].info.shape == (norm.outputs,)
        return {"bias": name} if has_one else {}

    def _scales(self, name: str, target: str, axis: int) -> Array | None:
        """By what each output was multiplied; NaN for one of zeros. None if it was not only multiplied."""
        import numpy as np

        before, after = self._sample(self.a[name], axis), self._sample(self.b[target], axis)
        with np.errstate(all="ignore"):
            scales = (before * after).sum(axis=1) / np.square(before).sum(axis=1)
            distance = np.abs(after - before * np.nan_to_num(scales)[:, None]).max(axis=1)
            close = distance <= self._tolerance(target) * np.abs(after).max(axis=1)
        return scales if close.all() and np.isfinite(scales).any() else None

    def _tolerance(self, target: str) -> float:
        return TOLERANCE[self.b[target].info.dtype]

    def _sample(self, tensor: LazyTensor, axis: int) -> Array:
        """Some elements of each output: one row for each."""
        key = id(tensor), axis
        if key not in self._rows:
            self._rows[key] = _rows_of(tensor, axis)
        return self._rows[key]

    def _eps(self, norm: _Norm, scales: Array, target: str) -> float | None:
        """The eps with which the norm's scales are these; None if there is none."""
        import numpy as np

        parts = {role: self.a[part] for role, part in norm.parts.items()}
        known = np.isfinite(scales)
        gamma = whole(parts["gamma"]) if "gamma" in parts else np.ones_like(scales)
        telling = known & (scales != 0)
        with np.errstate(all="ignore"):
            measured = np.square(gamma / scales)[telling] - whole(parts["var"])[telling]
        own = float(np.median(measured)) if measured.size else 0.0
        best, least = None, self._tolerance(target)
        for eps in (*USUAL_EPS, *([own] if 0 < own < 1 else [])):
            expected = scales_of(parts, eps)
            size = np.abs(expected[known]) + np.finfo(np.float64).tiny
            error = float((np.abs(scales[known] - expected[known]) / size).max())
            if error < least:
                best, least = eps, error
        return best

    def _folded_bias(self, parts: Mapping[str, LazyTensor], eps: float, target: str) -> str | None:
        """The tensor of `b` that has the values of the folded bias: the nearest behind the weight, if several do."""
        import numpy as np

        scales = scales_of(parts, eps)
        expected = bias_of(parts, scales)
        size = np.abs(expected) + np.abs(whole(parts["mean"]) * scales)
        allowed = self._tolerance(target) * (size + size.max(initial=0.0))
        start, count = self._places[target], len(self.b)
        alike = [name for name in self._by_shape[expected.shape] if name not in self._used]
        for name in sorted(alike, key=lambda name: (self._places[name] - start) % count)[:MOST_PARTNERS]:
            with np.errstate(all="ignore"):
                if (np.abs(whole(self.b[name]) - expected) <= allowed).all():
                    return name
        return None


def _layers_by_outputs(tensors: Tensors) -> dict[int, list[tuple[int, str, int]]]:
    """By a number of outputs, the weights that have so many: place, name, the outputs' dimension."""
    layers: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for place, (name, tensor) in enumerate(tensors.items()):
        shape = tensor.info.shape
        if len(shape) > 1 and tensor.info.dtype in FLOATS:
            layers[shape[0]].append((place, name, 0))
            if len(shape) > 2 and tensor.info.nbytes <= 4 * MOST_READ:
                layers[shape[1]].append((place, name, 1))
    return layers


def _rows_of(tensor: LazyTensor, axis: int) -> Array:
    """Up to `SAMPLE` elements of each output, in F64, a row for each."""
    import numpy as np

    info = tensor.info
    if info.nbytes <= MOST_READ or axis:
        values = np.moveaxis(whole(tensor).reshape(info.shape), axis, 0).reshape(info.shape[axis], -1)
        return np.array(values[:, :SAMPLE])
    width = info.numel // info.shape[0]
    return np.stack([wide(tensor, row * width, row * width + min(SAMPLE, width)) for row in range(info.shape[0])])
