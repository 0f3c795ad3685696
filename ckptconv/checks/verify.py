"""Compares the outputs of two runs, and finds the weights that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.report import Finding
from ckptconv.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.arrays import Array, Arrays
    from ckptconv.core.spelling import Json


class Weight(NamedTuple):
    """What identifies a tensor: its element type, its shape, and the hash of its content."""

    dtype: str
    shape: tuple[int, ...]
    content: str


@dataclass(slots=True)
class Output:
    """How one output differs, in the worst of all batches.

    max_abs: the largest difference.
    max_rel: the largest difference relative to the largest magnitude in its row.
    share:   the largest quotient of a difference and its limit.
    bound:   the limit in that quotient; 0 if bits have to be equal.
    batch:   the number of the batch in which it occurred.
    ok:      whether no element exceeds its limit.
    """

    name: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    bound: float = 0.0
    ok: bool = True
    share: float = 0.0
    batch: int = 0

    def to_dict(self) -> dict[str, Json]:
        """The output as ``verify --json`` prints it."""
        return {"name": self.name, "max_abs": self.max_abs, "max_rel": self.max_rel, "bound": self.bound, "ok": self.ok}


def _pair_outputs(a: Arrays, b: Arrays) -> list[tuple[str, str]]:
    """Pairs the outputs by name, or else by position. Raises ValueError if they do not correspond."""
    if set(a) == set(b):
        return [(name, name) for name in a]
    if len(a) != len(b):
        raise ValueError(f"{len(a)} outputs ({', '.join(a)}) against {len(b)} ({', '.join(b)})")
    return list(zip(a, b, strict=True))


def distances(x: Array, y: Array) -> Array:
    """The distance of each pair of elements, in float64.

    NaN equals NaN, and an infinity equals itself; otherwise they are infinitely far. So are strings that differ.
    """
    import numpy as np

    if not (_is_number(x) and _is_number(y)):
        return np.where(x == y, 0.0, np.inf)
    with np.errstate(all="ignore"):
        a, b = _as_double(x), _as_double(y)
        distance = np.asarray(np.abs(a - b))
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        distance[same] = 0.0
        distance[~same & ~np.isfinite(distance)] = np.inf
    return distance


def _is_number(x: Array) -> bool:
    return x.dtype.kind in "biufcV"  # "V" are the types of ml_dtypes


def _as_double(x: Array) -> Array:
    import numpy as np

    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def row_size(x: Array) -> Array:
    """The largest finite magnitude along the last axis, which is kept with length 1."""
    import numpy as np

    size = np.abs(_as_double(x)) if _is_number(x) else np.zeros(x.shape)
    size = np.where(np.isfinite(size), size, 0.0)
    return np.asarray(size.max(axis=-1, keepdims=True, initial=0.0)) if x.ndim else size


def compare_outputs(
    found: dict[str, Output], a: Arrays, b: Arrays, limits: Mapping[str, Array] | None, batch: int = 0
) -> None:
    """Compare one batch, and update `found` with it. Without limits, bits have to be equal.

    Raises ValueError if outputs do not correspond.
    """
    import numpy as np

    for position, (name, other) in enumerate(_pair_outputs(a, b)):
        x, y = np.asarray(a[name]), np.asarray(b[other])
        if x.shape != y.shape:
            raise ValueError(f"{name!r} has the shape {list(x.shape)} against {list(y.shape)}")
        total = found.setdefault(name, Output(name))
        distance = distances(x, y)
        if distance.size == 0:
            continue
        limit = np.broadcast_to(0.0 if limits is None else _limit_of(limits, name, position), distance.shape)
        with np.errstate(all="ignore"):
            relative = np.where(distance == 0, 0.0, distance / row_size(x))
            share = np.where(distance == 0, 0.0, distance / limit)
        worst = int(share.argmax())
        if float(share.flat[worst]) >= total.share:
            total.share, total.bound, total.batch = float(share.flat[worst]), float(limit.flat[worst]), batch
        total.max_abs = max(total.max_abs, float(distance.max()))
        total.max_rel = max(total.max_rel, float(relative.max()))
        total.ok = total.ok and bool(((distance <= limit) | (distance == 0)).all())  # a limit may be NaN


def _limit_of(limits: Mapping[str, Array], name: str, position: int) -> Array:
    """The limit by the output's name, or else by its position: a module and a graph name outputs differently."""
    return limits[name] if name in limits else list(limits.values())[min(position, len(limits) - 1)]


def blame_weights(a: Mapping[str, Weight], b: Mapping[str, Weight], *, equivalent: bool) -> list[Finding]:
    """Findings about tensors with the same name, type and shape whose contents differ, or are swapped.

    equivalent: the outputs are equal, so that such differences have no effect.
    """
    comparable = [name for name in a if name in b and a[name][:2] == b[name][:2]]
    changed = [name for name in comparable if a[name] != b[name] and not name.endswith("num_batches_tracked")]
    findings: list[Finding] = []
    if equivalent and changed:
        message = f"{listed(changed)}: the weights differ, and the outputs do not: that has no effect on these inputs"
        return [Finding("without-effect", "warning", changed[0], message)]
    swapped: set[str] = set()
    name_by_content = {a[name].content: name for name in changed}
    for name in changed:
        other = name_by_content.get(b[name].content)
        if other is None or other == name or name in swapped:
            continue
        if b[other].content == a[name].content and a[other][:2] == a[name][:2]:
            swapped |= {name, other}
            message = f"{name} and {other} are swapped: each holds what the other should"
            findings.append(Finding("swapped", "error", name, message, name, other))
    left = [name for name in changed if name not in swapped]
    if left:
        findings.append(Finding("weights-differ", "error", left[0], f"{listed(left)}: the weights differ"))
    return findings
