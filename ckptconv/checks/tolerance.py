"""How far two values may be from each other and still count as equal."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isnan
from typing import TYPE_CHECKING

from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_HINT = "write it as 'GLOB=rtol:1e-3,atol:1e-5,ulp:4', any of the three"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """``|b - a| <= atol + rtol * |a|``, as numpy.isclose with `a` as the reference and NaN equal to NaN; or at most
    `ulp` representable values apart, where that is given. All zero: bits must be equal.
    """

    rtol: float = 0.0
    atol: float = 0.0
    ulp: int = 0

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "ulp"):
            bound = getattr(self, name)
            if bound < 0 or isnan(bound):
                raise UsageError(f"{name} must not be negative, and is {bound:g}", hint="give a number from 0 on")

    @property
    def is_exact(self) -> bool:
        """Whether only equal bits are within it."""
        return not (self.rtol or self.atol or self.ulp)


@dataclass(frozen=True, slots=True)
class Tolerances:
    """A default tolerance, and others for tensors whose names match a pattern: the last that matches counts."""

    default: Tolerance = Tolerance()
    special: tuple[tuple[str, Tolerance], ...] = ()

    def of(self, *names: str) -> Tolerance:
        """The tolerance of a tensor that has these names."""
        for pattern, tolerance in reversed(self.special):
            if any(fnmatchcase(name, pattern) for name in names):
                return tolerance
        return self.default


def parse_tolerances(texts: Iterable[str]) -> tuple[tuple[str, Tolerance], ...]:
    """Parse ``GLOB=rtol:1e-3,atol:1e-5,ulp:4``; bounds that are not given are 0. Raises UsageError."""
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> tuple[str, Tolerance]:
    pattern, equals, bounds = text.rpartition("=")
    if not pattern or not equals:
        raise UsageError(f"{text!r} is not a tolerance", hint=_HINT)
    found: dict[str, float] = {}
    for bound in bounds.split(","):
        name, _, number = bound.partition(":")
        name = name.strip()
        if name not in ("rtol", "atol", "ulp") or name in found:
            raise UsageError(f"{bound!r} in {text!r} is not a tolerance", hint=_HINT)
        try:
            found[name] = int(number) if name == "ulp" else float(number)
        except ValueError:
            raise UsageError(f"{number!r} in {text!r} is not a number", hint=_HINT) from None
    return pattern, Tolerance(found.get("rtol", 0.0), found.get("atol", 0.0), int(found.get("ulp", 0)))
