"""The findings about differences of two tensors, each with a message of one line."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import shape_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.checks.compare_values import Values
    from ckptconv.checks.figures import Scalar
    from ckptconv.checks.ties import TieChange
    from ckptconv.edits.explanation import Comparison


def scalar(value: Scalar, digits: int = 9) -> str:
    """A value with this many significant digits; -0.0 keeps its sign."""
    if isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, complex):
        return f"({scalar(value.real, digits)}, {scalar(value.imag, digits)}j)"
    text = f"{value:.{digits}g}"
    return text if isnan(value) or not text.lstrip("-").isdigit() else f"{text}.0"


def value_finding(one: Comparison, values: Values | None) -> Iterator[Finding]:
    """The findings about a pair whose bytes differ: its element type, its values."""
    name = one.a_name if one.a_name == one.b_name else f"{one.a_name} → {one.b_name}"
    a_type, b_type = one.a.info.dtype.name, one.b.info.dtype.name
    if a_type != b_type:
        message = f"{name}: {a_type} → {b_type}{_cast_text(values)}"
        yield Finding("dtype-changed", "error", one.a_name, message, a_type, b_type)
        if values is None or values.cast or not values.differing:
            return
    if values is None:
        yield Finding("value-changed", "error", one.a_name, f"{name}: other bytes ({a_type} is compared as bytes)")
        return
    expected, found = _first_texts(values)
    within = values.outside == 0
    rounded = "" if values.between is None else f"rounded to {values.between}, "
    message = f"{name}: {rounded}{_difference_text(values)}{', all within the tolerance' if within else ''}"
    yield Finding("value-changed", "info" if within else "error", one.a_name, message, expected, found)


def tie_finding(change: TieChange) -> Finding:
    """The finding about names that share one tensor on one side only."""
    names = " = ".join(change.names)
    apart = ", ".join(" = ".join(group) for group in change.groups)
    all_apart = len(change.groups) == len(change.names)
    if change.made:
        message = f"tied: {names} share one tensor" + (", and did not before" if all_apart else f"; before: {apart}")
        return Finding("tie-made", "error", change.names[0], message, apart, names)
    message = f"untied: {names} shared one tensor" + (", but no longer do" if all_apart else f"; now: {apart}")
    return Finding("tie-broken", "error", change.names[0], message, names, apart)


def _cast_text(values: Values | None) -> str:
    if values is None:
        return "; values are not compared"
    if values.differing == 0:
        return ", cast, every value kept"
    if not values.cast:
        return ", and other values than a cast gives"
    way = "" if values.between is None else f" by way of {values.between}"
    return f", cast{way}, {'rounding, and some values past the range' if values.overflowed else 'rounding only'}"


def _first_texts(values: Values) -> tuple[str | None, str | None]:
    if values.first is None or values.first_values is None:
        return None, None
    a, b = values.first_values
    return scalar(a), scalar(b)


def _difference_text(values: Values) -> str:
    count = f"{values.differing:,} of {values.elements:,}"
    text = f"{count} {'value differs' if values.differing == 1 else 'values differ'}"
    if values.signs == values.differing:
        text += " in the sign of zero alone"
    elif values.max_abs is not None:
        text += f", by up to {scalar(values.max_abs, 3)}"
    if values.nan:
        text += f", {values.nan:,} in being NaN"
    expected, found = _first_texts(values)
    if values.first is not None:
        text += f"; first at {shape_text(values.first)}: {expected} → {found}"
    return text
