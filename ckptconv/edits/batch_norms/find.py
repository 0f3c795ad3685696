"""Finds the batch norms of one set of tensors that were folded into the weights of another.

Exporters give the folded tensors names of their own (``onnx::Conv_193``), and only the order of layers, which a
state_dict does not tell, says which norm follows which layer. The values do: a folded weight is the old one, every
output of it times a number; these numbers are those of one norm, and tell its eps; and with them, the folded bias has
to come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.edit import Step
from ckptconv.edits.batch_norms.folded import ROLES, bias_of, scales_of, whole
from ckptconv.edits.batch_norms.free import Free
from ckptconv.edits.patterns import edits_by_pattern
from ckptconv.edits.scaled import FLOATS, wide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptconv.core.arrays import Array
    from ckptconv.core.edit import Edit
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor

    Shape = tuple[int, ...]
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

ROUNDING = 16
"""A scale that is nearer than this part of the tolerance is off by rounding alone."""


_STATISTIC = ".running_var"


@dataclass(frozen=True, slots=True)
class _Norm:
    """A batch norm: its tensors' names by role, the place of the first, how many outputs it is for, and its counter."""

    parts: Mapping[str, str]
    place: int
    outputs: int
    counter: str | None


def find_folds(a: Tensors, b: Tensors) -> list[Edit]:
    """The edits that fold the norms of `a` that are folded in `b`, and give weights and biases their names in `b`.

    Reads nothing if `b` has the norms as well, even under other names, or `a` has none; else all norms and the
    layers near them, or parts of these.
    """
    norms = list(_lost_norms(a, b))
    if not norms or any(name.endswith(_STATISTIC) and name not in a for name in b):
        return []
    return _Search(a, b).run(norms)


def _lost_norms(a: Tensors, b: Tensors) -> Iterator[_Norm]:
    """The norms of `a` of which `b` has no running variance of that name."""
    places = {name: place for place, name in enumerate(a)}
    for name in a:
        module = name.removesuffix(_STATISTIC)
        if module == name or name in b or f"{module}.running_mean" not in a:
            continue
        names = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
        parts = {role: f"{module}.{end}" for role, end in names.items() if f"{module}.{end}" in a}
        infos = [a[part].info for part in parts.values()]
        is_norm = len({info.shape for info in infos}) == 1 and len(infos[0].shape) == 1
        is_norm = is_norm and 0 < infos[0].numel <= MOST_OUTPUTS
        if is_norm and all(info.dtype in FLOATS for info in infos):
            counter = f"{module}.num_batches_tracked"
            place = min(places[part] for part in parts.values())
            yield _Norm(parts, place, infos[0].shape[0], counter if counter in a else None)


class _Search:
    """Looks for folds; a tensor that takes part in one is in no other."""

    def __init__(self, a: Tensors, b: Tensors) -> None:
        self.a, self.b = a, b
        self._layers = _layers_by_outputs(a)
        self._new: Free[Shape] = Free()
        for place, (name, tensor) in enumerate(b.items()):
            if tensor.info.dtype in FLOATS and name not in a:
                self._new.add(tensor.info.shape, (place, name, 0))
        self._places_in_a = {name: place for place, name in enumerate(a)}
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
                bias = self._folded_bias(parts, eps, target)
                if bias is not None:
                    self._take(name, target, bias)
                    roles = [role for role in ROLES if role in parts]
                    details: dict[str, Json] = {"parts": [*roles], "eps": eps, "axis": axis}
                    return Step(tuple(parts[role] for role in roles), (target, bias)), details
        return None

    def _take(self, weight: str, *targets: str) -> None:
        """Let no other fold have a weight of `a`, and these tensors of `b`."""
        for outputs in self.a[weight].info.shape[:2]:
            self._layers.take(outputs, self._places_in_a[weight])
        for target in targets:
            self._new.take(self.b[target].info.shape, self._places[target])
        self._used |= {*targets}

    def _layers_near(self, norm: _Norm) -> list[tuple[str, int]]:
        """The weights that the norm may follow, with the dimension of their outputs, the nearest before it first."""
        before = self._layers.before(norm.outputs, norm.place, MOST_LAYERS)
        behind = self._layers.behind(norm.outputs, norm.place, MOST_LAYERS)
        nearest = [*sorted(before, key=lambda layer: -layer[0]), *behind]
        return [(name, axis) for _, name, axis in nearest[:MOST_LAYERS]]

    def _partners(self, name: str) -> list[str]:
        """The tensors of `b` that may be the folded weight: that of the same name, or else new ones of its shape."""
        shape = self.a[name].info.shape
        if self._is_free(name, shape):
            return [name]
        return [other for _, other, _ in self._new.first(shape, MOST_PARTNERS)]

    def _is_free(self, name: str, shape: Shape) -> bool:
        """Whether `b` has a tensor of this name and shape that no fold has taken."""
        info = self.b[name].info if name in self.b and name not in self._used else None
        return info is not None and info.shape == shape and info.dtype in FLOATS

    def _bias_of_layer(self, weight: str, norm: _Norm) -> dict[str, str]:
        module, _, last = weight.rpartition(".")
        name = f"{module}.bias"
        has_one = last == "weight" and name in self.a and self.a[name].info.shape == (norm.outputs,)
        return {"bias": name} if has_one else {}

    def _scales(self, name: str, target: str, axis: int) -> Array | None:
        """By what each output was multiplied; NaN for one of zeros. None if it was not only multiplied, or not at all:
        a norm that has not been trained would explain weights that are the same, but for its eps.
        """
        import numpy as np

        before, after = self._sample(self.a[name], axis), self._sample(self.b[target], axis)
        with np.errstate(all="ignore"):
            scales = (before * after).sum(axis=1) / np.square(before).sum(axis=1)
            distance = np.abs(after - before * np.nan_to_num(scales)[:, None]).max(axis=1)
            close = distance <= self._tolerance(target) * np.abs(after).max(axis=1)
        changed = (scales[np.isfinite(scales)] != 1).any()
        return scales if close.all() and changed else None

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

        def error_of(eps: float) -> float:
            expected = scales_of(parts, eps)[known]
            errors = np.abs(scales[known] - expected) / (np.abs(expected) + np.finfo(np.float64).tiny)
            return float(np.nan_to_num(errors.max(), nan=np.inf))

        usual, tolerance = min(USUAL_EPS, key=error_of), self._tolerance(target)
        own = float(np.median(measured)) if measured.size else usual
        by_rounding_alone = error_of(usual) < tolerance / ROUNDING
        best = usual if by_rounding_alone or not 0 < own < 1 else min(usual, own, key=error_of)
        return best if error_of(best) < tolerance else None

    def _folded_bias(self, names: Mapping[str, str], eps: float, target: str) -> str | None:
        """The tensor of `b` that is the folded bias: the layer's own, or a new one, the nearest behind the weight.
        `names`: those of the parts.
        """
        import numpy as np

        parts = {role: self.a[name] for role, name in names.items()}
        scales = scales_of(parts, eps)
        expected = bias_of(parts, scales)
        size = np.abs(expected) + np.abs(whole(parts["mean"]) * scales)
        allowed = self._tolerance(target) * (size + size.max(initial=0.0))
        own = [names["bias"]] if "bias" in names and self._is_free(names["bias"], expected.shape) else []
        behind = self._new.behind(expected.shape, self._places[target], MOST_PARTNERS)
        first = self._new.first(expected.shape, MOST_PARTNERS - len(behind))
        for name in [*own, *(name for _, name, _ in [*behind, *first])]:
            with np.errstate(all="ignore"):
                if (np.abs(whole(self.b[name]) - expected) <= allowed).all():
                    return name
        return None


def _layers_by_outputs(tensors: Tensors) -> Free[int]:
    """By a number of outputs, the weights that have so many, with the dimension of these."""
    layers: Free[int] = Free()
    for place, (name, tensor) in enumerate(tensors.items()):
        shape = tensor.info.shape
        if len(shape) > 1 and tensor.info.numel and tensor.info.dtype in FLOATS:
            layers.add(shape[0], (place, name, 0))
            if len(shape) > 2 and tensor.info.nbytes <= 4 * MOST_READ:
                layers.add(shape[1], (place, name, 1))
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
