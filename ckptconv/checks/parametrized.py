"""Weights that a network computes from several tensors whenever it runs: how a checkpoint stores them.

    NAME_orig, NAME_mask                      torch.nn.utils.prune: their product
    NAME_g, NAME_v                            torch.nn.utils.weight_norm: v, scaled so that its norms are g
    M.parametrizations.NAME.original0, …1     torch.nn.utils.parametrizations.weight_norm: the same
    NAME_orig, NAME_u, NAME_v                 torch.nn.utils.spectral_norm: orig by its spectral norm, u · orig v
    M.parametrizations.NAME.original, .0._u, .0._v    torch.nn.utils.parametrizations.spectral_norm: the same

The plain network has NAME alone, as after `prune.remove` and its like.

Sources: torch/nn/utils/prune.py, weight_norm.py, spectral_norm.py, parametrizations.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptconv.edits.match import Shape

    Found = Mapping[str, tuple[int, ...]]


class Computed(NamedTuple):
    """A weight, the tensors that it is computed from, in what way, and Python to do so in a ``state_dict``."""

    name: str
    parts: tuple[str, ...]
    how: str
    hint: str


def computed_weights(
    missing: Iterable[str], found: Found, fits: Callable[[str, tuple[int, ...]], bool]
) -> list[Computed]:
    """The missing weights whose parts are in `found`. `fits`: whether the weight of a name may have a shape."""
    weights = []
    for name in missing:
        for candidate in _candidates(name, found):
            if fits(name, found[candidate.parts[0]]):
                weights.append(candidate)
                break
    return weights


def _candidates(name: str, found: Found) -> Iterable[Computed]:
    module, dot, last = name.rpartition(".")
    inside = f"{module}{dot}parametrizations.{last}"
    orig, mask = f"{name}_orig", f"{name}_mask"
    if _has_all(found, orig, mask) and found[orig] == found[mask]:
        yield Computed(name, (orig, mask), "pruned", _assigned(name, f"{_pop(orig)} * {_pop(mask)}"))
    for v, g in ((f"{name}_v", f"{name}_g"), (f"{inside}.original1", f"{inside}.original0")):
        if _has_all(found, v, g) and (axis := _axis_of_norms(found[v], found[g])) is not None:
            hint = _assigned(name, f"torch._weight_norm({_pop(v)}, {_pop(g)}, {axis})")
            yield Computed(name, (v, g), "normalized by weight_norm", hint)
    for parts in ((orig, f"{name}_u", f"{name}_v"), (f"{inside}.original", f"{inside}.0._u", f"{inside}.0._v")):
        if _has_all(found, *parts) and _is_spectral(*(found[part] for part in parts)):
            weight, u, v = parts
            computed = f"(w := {_pop(weight)}) / ({_pop(u)} @ w.flatten(1) @ {_pop(v)})"
            yield Computed(name, parts, "normalized by spectral_norm", _assigned(name, computed))


def _has_all(found: Found, *names: str) -> bool:
    return all(name in found for name in names)


def _axis_of_norms(shape: tuple[int, ...], norms: tuple[int, ...]) -> int | None:
    """The dimension that has a norm for each index; -1 for one norm of the whole; None where they are not norms."""
    if len(norms) == len(shape):
        return next((i for i, size in enumerate(shape) if norms == _norms_shape(len(shape), i, size)), None)
    return -1 if norms == () else None


def _norms_shape(rank: int, axis: int, size: int) -> Shape:
    return tuple(size if i == axis else 1 for i in range(rank))


def _is_spectral(shape: tuple[int, ...], u: tuple[int, ...], v: tuple[int, ...]) -> bool:
    """Whether u and v are as long as the sides of the weight, as a matrix of its first dimension by all others."""
    if len(shape) < 2 or len(u) != 1 or len(v) != 1 or u[0] != shape[0]:
        return False
    rest = 1
    for size in shape[1:]:
        rest *= size
    return v[0] == rest


def _pop(name: str) -> str:
    return f"state_dict.pop({name!r})"


def _assigned(name: str, computed: str) -> str:
    return f"state_dict[{name!r}] = {computed}"
