"""Whether two runners compute the same, and what differs where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.core.report import Finding
from ckptconv.io.digest import content_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from ckptconv.checks.runners import Arrays
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.spelling import Json


@dataclass(slots=True)
class Output:
    """How one output differs, the worst of all runs.

    max_abs: the largest difference. max_rel: the largest relative to its row's largest magnitude.
    bound:   the limit where the difference came nearest to it, or past it; 0 where bits have to be equal.
    ok:      whether no element is past its limit.
    """

    name: str
    max_abs: float = 0.0
    max_rel: float = 0.0
    bound: float = 0.0
    ok: bool = True
    share: float = 0.0

    def to_dict(self) -> dict[str, Json]:
        """The output as ``verify --json`` prints it."""
        return {"name": self.name, "max_abs": self.max_abs, "max_rel": self.max_rel, "bound": self.bound, "ok": self.ok}


def pair_outputs(a: Arrays, b: Arrays) -> list[tuple[str, str]]:
    """Outputs of the two by name, else by position. Raises ValueError where they do not correspond."""
    if set(a) == set(b):
        return [(name, name) for name in a]
    if len(a) != len(b):
        raise ValueError(f"{len(a)} outputs ({', '.join(a)}) against {len(b)} ({', '.join(b)})")
    return list(zip(a, b, strict=True))


def compare_outputs(
    found: dict[str, Output], a: Arrays, b: Arrays, limits: Mapping[str, np.ndarray[Any, Any]] | None
) -> None:
    """Take one run into `found`; without limits the bits have to be equal. NaN equals NaN, infinity itself.

    Raises ValueError where outputs do not correspond.
    """
    import numpy as np

    for name, other in pair_outputs(a, b):
        x, y = np.asarray(a[name]), np.asarray(b[other])
        if x.shape != y.shape:
            raise ValueError(f"{name!r} has the shape {list(x.shape)} against {list(y.shape)}")
        total = found.setdefault(name, Output(name))
        with np.errstate(all="ignore"):
            wide = (x.astype(np.float64), y.astype(np.float64))
            distance = np.abs(wide[0] - wide[1])
            same = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
            distance[same] = 0.0
            distance[~same & ~np.isfinite(distance)] = np.inf
            limit = np.zeros_like(distance) if limits is None else np.broadcast_to(_limit(limits, name), distance.shape)
            size = np.abs(wide[0]).max(axis=-1, keepdims=True, initial=0.0) if x.ndim else np.abs(wide[0])
            relative = np.where(distance == 0, 0.0, distance / size)
            share = np.where(distance == 0, 0.0, distance / limit)
        if distance.size == 0:
            continue
        worst = int(share.argmax())
        if float(share.flat[worst]) >= total.share:
            total.share, total.bound = float(share.flat[worst]), float(limit.flat[worst])
        total.max_abs = max(total.max_abs, float(distance.max()))
        total.max_rel = max(total.max_rel, float(relative.max()))
        total.ok = total.ok and not bool((distance > limit).any())


def _limit(limits: Mapping[str, np.ndarray[Any, Any]], name: str) -> np.ndarray[Any, Any]:
    return limits[name] if name in limits else next(iter(limits.values()))


def blame_weights(a: Checkpoint, b: Checkpoint, *, equivalent: bool) -> list[Finding]:
    """Which tensors of one name differ, and which only changed places. Reads those of equal shapes and types."""
    changed: list[str] = []
    hashes: dict[str, tuple[str, str]] = {}
    for name in a:
        if name in b and a[name].info == b[name].info and not name.endswith("num_batches_tracked"):
            pair = content_hash(a[name]), content_hash(b[name])
            if pair[0] != pair[1]:
                changed.append(name)
                hashes[name] = pair
    found: list[Finding] = []
    if equivalent and changed:
        message = f"{_names(changed)}: the weights differ, and the outputs do not: that has no effect on these inputs"
        return [Finding("without-effect", "warning", changed[0], message)]
    swapped: set[str] = set()
    homes = {ours: name for name, (ours, _) in hashes.items()}
    for name, (_, theirs) in hashes.items():
        other = homes.get(theirs)
        if other is not None and other != name and hashes[other][1] == hashes[name][0] and name not in swapped:
            swapped |= {name, other}
            message = f"{name} and {other} are swapped: each holds what the other should"
            found.append(Finding("swapped", "error", name, message, name, other))
    left = [name for name in changed if name not in swapped]
    if left:
        found.append(Finding("weights-differ", "error", left[0], f"{_names(left)}: the weights differ"))
    return found


def _names(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
