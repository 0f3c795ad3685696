"""Whether two runs gave the same, and which weights differ where they did not."""

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
    """What a tensor is, so far as two can be told apart: element type, shape, and the hash of its content."""

    dtype: str
    shape: tuple[int, ...]
    content: str


@dataclass(slots=True)
class Output:
    """How one output differs, the worst of all batches.

    max_abs: the largest difference. max_rel: the largest relative to its row's largest magnitude.
    bound:   the limit where the difference came nearest to it, or past it; 0 where bits have to be equal.
    ok:      whether no element is past its limit.
    share:   that difference through its limit. batch: the number of the batch in which it was.
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
    """Outputs of the two by name, else by position. Raises ValueError where they do not correspond."""
    if set(a) == set(b):
        return [(name, name) for name in a]
    if len(a) != len(b):
        raise ValueError(f"{len(a)} outputs ({', '.join(a)}) against {len(b)} ({', '.join(b)})")
    return list(zip(a, b, strict=True))


def distances(x: Array, y: Array) -> Array:
    """How far each element is off, in float64. NaN equals NaN, infinity itself; else they are infinitely far.

    So are texts that differ.
    """
    import numpy as np

    if not (_is_number(x) and _is_number(y)):
        return np.where(x == y, 0.0, np.inf)
    with np.errstate(all="ignore"):
        wide = _wide(x), _wide(y)
        distance = np.asarray(np.abs(wide[0] - wide[1]))
        same = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
        distance[same] = 0.0
        distance[~same & ~np.isfinite(distance)] = np.inf
    return distance


def _is_number(x: Array) -> bool:
    return x.dtype.kind in "biufcV"  # ml_dtypes' are "V"


def _wide(x: Array) -> Array:
    import numpy as np

    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def row_size(x: Array) -> Array:
    """The largest finite magnitude along the last axis, which is kept."""
    import numpy as np

    size = np.abs(_wide(x)) if _is_number(x) else np.zeros(x.shape)
    size = np.where(np.isfinite(size), size, 0.0)
    return np.asarray(size.max(axis=-1, keepdims=True, initial=0.0)) if x.ndim else size


def compare_outputs(
    found: dict[str, Output], a: Arrays, b: Arrays, limits: Mapping[str, Array] | None, batch: int = 0
) -> None:
    """Take one batch into `found`; without limits the bits have to be equal.

    Raises ValueError where outputs do not correspond.
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
        limit = np.broadcast_to(0.0 if limits is None else _limit(limits, name, position), distance.shape)
        with np.errstate(all="ignore"):
            relative = np.where(distance == 0, 0.0, distance / row_size(x))
            share = np.where(distance == 0, 0.0, distance / limit)
        worst = int(share.argmax())
        if float(share.flat[worst]) >= total.share:
            total.share, total.bound, total.batch = float(share.flat[worst]), float(limit.flat[worst]), batch
        total.max_abs = max(total.max_abs, float(distance.max()))
        total.max_rel = max(total.max_rel, float(relative.max()))
        total.ok = total.ok and bool(((distance <= limit) | (distance == 0)).all())  # a limit may be NaN


def _limit(limits: Mapping[str, Array], name: str, position: int) -> Array:
    """The limit by the output's name, else by its position: a module and a graph call outputs differently."""
    return limits[name] if name in limits else list(limits.values())[min(position, len(limits) - 1)]


def blame_weights(a: Mapping[str, Weight], b: Mapping[str, Weight], *, equivalent: bool) -> list[Finding]:
    """Which tensors of one name, type and shape differ, and which only changed places."""
    alike = [name for name in a if name in b and a[name][:2] == b[name][:2]]
    changed = [name for name in alike if a[name] != b[name] and not name.endswith("num_batches_tracked")]
    found: list[Finding] = []
    if equivalent and changed:
        message = f"{listed(changed)}: the weights differ, and the outputs do not: that has no effect on these inputs"
        return [Finding("without-effect", "warning", changed[0], message)]
    swapped: set[str] = set()
    homes = {a[name].content: name for name in changed}
    for name in changed:
        other = homes.get(b[name].content)
        if other is None or other == name or name in swapped:
            continue
        if b[other].content == a[name].content and a[other][:2] == a[name][:2]:
            swapped |= {name, other}
            message = f"{name} and {other} are swapped: each holds what the other should"
            found.append(Finding("swapped", "error", name, message, name, other))
    left = [name for name in changed if name not in swapped]
    if left:
        found.append(Finding("weights-differ", "error", left[0], f"{listed(left)}: the weights differ"))
    return found
