"""Finds weights that a network computes of several tensors whenever it runs, by the names and shapes of these.

    NAME_orig, NAME_mask                      torch.nn.utils.prune: their product
    NAME_v, NAME_g                            torch.nn.utils.weight_norm: v, scaled so that its norms are g
    M.parametrizations.NAME.original1, …0     torch.nn.utils.parametrizations.weight_norm: the same
    NAME_orig, NAME_u, NAME_v                 torch.nn.utils.spectral_norm: orig by its spectral norm, u · orig v
    M.parametrizations.NAME.original, .0._u, .0._v    torch.nn.utils.parametrizations.spectral_norm: the same
    M.parametrizations.NAME.original…         any other: computed by a class that the file does not name

The plain network has NAME alone, as after `prune.remove` and its like.

Sources: torch/nn/utils/prune.py, weight_norm.py, spectral_norm.py, parametrizations.py, parametrize.py.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.edit import Step
from ckptconv.edits.patterns import edits_by_pattern
from ckptconv.errors import EditError, first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ckptconv.core.edit import Edit
    from ckptconv.core.spelling import Json

    Shape = tuple[int, ...]
    Found = Mapping[str, Shape]
    Fits = Callable[[str, Shape], bool]

_INSIDE = "parametrizations"
_ENDINGS = ("_orig", "_v")
"""How the first part of a weight without `_INSIDE` ends."""

HOW = {
    "pruned": "pruned",
    "weight_norm": "normalized by weight_norm",
    "spectral_norm": "normalized by spectral_norm",
    "": "parametrized by a class that the file does not name",
}


class Parametrized(NamedTuple):
    """A weight, and the tensors that it is computed of.

    scheme: a key of `HOW`; "" for one that is not known.
    parts:  the tensors, in the order of an edit's sources.
    axes:   the dimension that has a norm for each index, or that u belongs to; several where shapes leave that open,
            and none for a norm of the whole.
    """

    name: str
    scheme: str
    parts: tuple[str, ...]
    axes: tuple[int, ...] = ()

    @property
    def how(self) -> str:
        """The scheme, as said of the weight."""
        return HOW[self.scheme]

    @property
    def hint(self) -> str:
        """Python that computes the weight in a ``state_dict``; without a scheme, what does."""
        popped = [f"state_dict.pop({part!r})" for part in self.parts]
        match self.scheme:
            case "pruned":
                computed = " * ".join(popped)
            case "weight_norm":
                computed = f"torch._weight_norm({', '.join(popped)}, {self.axes[0] if self.axes else -1})"
            case "spectral_norm":
                matrix = f"w.movedim({self.axes[0]}, 0)" if self.axes[0] else "w"
                computed = f"(w := {popped[0]}) / ({popped[1]} @ {matrix}.flatten(1) @ {popped[2]})"
            case _:
                module, _, last = self.name.rpartition(".")
                owner = f"model.{module}" if module else "model"
                return f"torch.nn.utils.parametrize.remove_parametrizations({owner}, {last!r}), before it is saved"
        return f"state_dict[{self.name!r}] = {computed}"

    @property
    def details(self) -> dict[str, Json]:
        """The details of the edit that computes it."""
        axis: dict[str, Json] = {"axis": self.axes[0]} if len(self.axes) == 1 else {}
        return {"scheme": self.scheme, **axis}


def removing_edits(found: Found) -> list[Edit]:
    """The edits that make plain weights of all of them, one for each way to compute them.

    Raises EditError if there are none, or some that are computed by an unknown class.
    """
    weights = all_parametrized(found)
    if not weights:
        raise EditError(
            "--remove-parametrizations finds no weight that is pruned, or normalized by weight_norm or spectral_norm",
            hint="ckptconv inspect --list shows the names; theirs end in _orig, _v or .parametrizations.NAME.original",
        )
    if unknown := [weight for weight in weights if not weight.scheme]:
        raise EditError(
            f"--remove-parametrizations: {unknown[0].name!r} is {unknown[0].how}",
            hint=unknown[0].hint,
            details=first_of([repr(weight.name) for weight in unknown]) if len(unknown) > 1 else [],
        )
    alike: dict[str, list[Parametrized]] = {}
    for weight in weights:
        alike.setdefault(str(weight.details), []).append(weight)
    return [
        edit
        for group in alike.values()
        for edit in edits_by_pattern(
            "remove-parametrization", [Step(weight.parts, (weight.name,)) for weight in group], group[0].details
        )
    ]


def all_parametrized(found: Found) -> list[Parametrized]:
    """All weights whose parts are in `found`, in the order of their first parts. Costs O(names)."""
    return find_parametrized(_possible_names(found), found)


def _possible_names(found: Found) -> list[str]:
    """The names of weights that may be computed of what is found, each once, in the order of their first parts."""
    names: list[str] = []
    for part in found:
        names += [part.removesuffix(ending) for ending in _ENDINGS if part.endswith(ending)]
        names += _owner_of(part)
    return [name for name in dict.fromkeys(names) if name not in found]


def _owner_of(part: str) -> list[str]:
    """The name of the weight that has this part under `_INSIDE`, if it is one."""
    path = part.split(".") if _INSIDE in part else []
    if _INSIDE not in path[:-2]:
        return []
    at = len(path) - 1 - path[::-1].index(_INSIDE)
    return [".".join([*path[:at], path[at + 1]])]


def find_parametrized(names: Iterable[str], found: Found, fits: Fits = lambda name, shape: True) -> list[Parametrized]:
    """The weights of these names whose parts are in `found`. `fits`: whether the weight of a name may have a shape."""
    inside: dict[str, list[str]] = {}
    for part in found:
        for name in _owner_of(part):
            inside.setdefault(name, []).append(part)
    weights = []
    for name in names:
        for weight in _candidates(name, found, inside.get(name, [])):
            if not weight.scheme or fits(name, found[weight.parts[0]]):
                weights.append(weight)
                break
    return weights


def _candidates(name: str, found: Found, inside: Sequence[str]) -> Iterator[Parametrized]:
    """The ways in which a weight may be computed. `inside`: all that is found of it under `_INSIDE`."""
    orig, mask = f"{name}_orig", f"{name}_mask"
    if _has_all(found, orig, mask) and found[orig] == found[mask]:
        yield Parametrized(name, "pruned", (orig, mask))
    module, dot, last = name.rpartition(".")
    prefix = f"{module}{dot}{_INSIDE}.{last}."
    for parts in ((f"{name}_v", f"{name}_g"), (f"{prefix}original1", f"{prefix}original0")):
        if _has_all(found, *parts) and (norms := _axes_of_norms(*map(found.__getitem__, parts))) is not None:
            yield from _unless_chained(Parametrized(name, "weight_norm", parts, norms), inside)
    for spectral in ((orig, f"{name}_u", f"{name}_v"), (f"{prefix}original", f"{prefix}0._u", f"{prefix}0._v")):
        if _has_all(found, *spectral) and (axes := axes_of_spectral(*map(found.__getitem__, spectral))):
            yield from _unless_chained(Parametrized(name, "spectral_norm", spectral, axes), inside)
    if inside:
        yield Parametrized(name, "", tuple(inside))


def _unless_chained(weight: Parametrized, inside: Sequence[str]) -> Iterator[Parametrized]:
    """The weight, unless it has more parts, of another class that is applied before or after."""
    if set(inside) <= {*weight.parts}:
        yield weight


def _has_all(found: Found, *names: str) -> bool:
    return all(name in found for name in names)


def _axes_of_norms(shape: Shape, norms: Shape) -> tuple[int, ...] | None:
    """The dimension that has a norm for each index; () for one norm of the whole; None where they are not norms.

    A norm of each single element is taken for one along dimension 0 alone, torch's default: two vectors of the same
    shape, such as RWKV's time_mix_v and time_mix_g, are something else.
    """
    if len(shape) < 2:
        return None
    if len(norms) == len(shape):
        axes = range(1 if norms == shape else len(shape))
        return next(((axis,) for axis in axes if norms == _with_size(len(shape), axis, shape[axis])), None)
    return () if norms == () else None


def _with_size(rank: int, axis: int, size: int) -> Shape:
    return tuple(size if i == axis else 1 for i in range(rank))


def axes_of_spectral(shape: Shape, u: Shape, v: Shape) -> tuple[int, ...]:
    """The dimensions that may be the rows of the weight as a matrix, with u as long as these, and v as all others.

    torch takes the first, of a transposed convolution the second.
    """
    if len(shape) < 2 or len(u) != 1 or len(v) != 1:
        return ()
    return tuple(axis for axis, size in enumerate(shape) if u[0] == size and v[0] * size == prod(shape))
