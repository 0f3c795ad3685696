"""Inverts edits: makes the edits that undo them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.core.edit import Edit, Step
from ckptconv.edits.functions import near_inverse
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.edit import Kind
    from ckptconv.core.spelling import Json

_OPPOSITE: dict[Kind, Kind] = {
    "rename": "rename", "transpose": "transpose", "permute": "permute", "reshape": "reshape", "cast": "cast",
    "split": "concat", "concat": "split", "stack": "unstack", "unstack": "stack", "untie": "tie", "tie": "untie",
    "insert-layers": "remove-layers",
}  # fmt: skip

_GONE: dict[Kind, tuple[str, str]] = {
    "dequantize": ("quantizing anew is not an edit", "the file that it was made from has the quantized weights"),
    "quantize": ("what it rounded away is not in it", "--dequantize makes plain weights of what it made"),
    "remove-parametrization": ("what it computed from is not in it", "the file that it was made from has that"),
    "fold-batch-norm": ("the norm is not in it", "the file that it was made from has it"),
}
"""Kinds that cannot be undone: why, and where to find what is gone."""

_BITS = {
    DType.F64: (11, 52), DType.F32: (8, 23), DType.BF16: (8, 7), DType.F16: (5, 10), DType.F8_E5M2: (5, 2),
    DType.F8_E4M3: (4, 3), DType.F8_E5M2FNUZ: (5, 2), DType.F8_E4M3FNUZ: (4, 3), DType.F6_E3M2: (3, 2),
    DType.F6_E2M3: (2, 3), DType.F4: (2, 1), DType.F8_E8M0: (8, 0),
}  # fmt: skip
"""Bits of the exponent, and of the fraction."""

_IEEE_LIKE = (DType.F64, DType.F32, DType.BF16, DType.F16, DType.F8_E5M2)
"""Types with infinities and NaNs: they can hold the special values of any narrower type."""


def inverted(edits: Sequence[Edit]) -> list[Edit]:
    """The edits that undo these, the last one first. Raises EditError, saying why, for one that cannot be undone."""
    return [_inverse(edit, number) for number, edit in reversed(list(enumerate(edits, 1)))]


def _inverse(edit: Edit, number: int) -> Edit:
    def fail(why: str, hint: str = "without this edit in the file, the others can be") -> EditError:
        where = f"edit {number}, {edit.kind} {' + '.join(edit.sources)!r}"
        return EditError(f"{where}, cannot be undone: {why}", hint=hint)

    details = dict(edit.details)
    if edit.kind == "zeros" or (edit.kind == "tie" and details.get("new")):
        return Edit("drop", edit.targets, (), {}, tuple(Step(step.targets, ()) for step in edit.steps))
    if edit.kind == "map":
        raise fail("what it rounded away is not in it", near_inverse(details))
    if edit.kind in _GONE:
        raise fail(*_GONE[edit.kind])
    if edit.kind not in _OPPOSITE:
        raise fail("the values are not in it")
    match edit.kind:
        case "transpose" | "permute":
            _invert_axes(edit.kind, details, fail)
        case "reshape":
            if "from" not in details or "shape" not in details:
                raise fail("it does not say the shape before: from = [...]")
            details["from"], details["shape"] = details["shape"], details["from"]
        case "cast":
            _invert_cast(details, fail)
        case "concat" if "sizes" not in details:
            raise fail("it does not say the lengths of the parts: sizes = [...]")
        case "tie" | "untie":
            return Edit(_OPPOSITE[edit.kind], edit.sources, edit.targets, {}, edit.steps)
    steps = tuple(Step(step.targets, step.sources) for step in edit.steps)
    return Edit(_OPPOSITE[edit.kind], edit.targets, edit.sources, details, steps)


def _invert_axes(kind: Kind, details: dict[str, Json], fail: Callable[[str], EditError]) -> None:
    """Replace the axes of a transpose or permute, and a permute's shape, by their inverse."""
    axes = _numbers(details.get("axes"))
    if axes is None or sorted(axes) != list(range(len(axes))):
        raise fail("it needs 'axes'")
    if kind == "permute":
        shape = _numbers(details.get("shape"))
        if shape is None or len(shape) != len(axes):
            raise fail("it needs 'shape', a size for each of 'axes'")
        details["shape"] = [shape[axis] for axis in axes]
    details["axes"] = sorted(range(len(axes)), key=axes.__getitem__)


def _invert_cast(details: dict[str, Json], fail: Callable[[str], EditError]) -> None:
    before, after = DTYPES.get(str(details.get("from"))), DTYPES.get(str(details.get("dtype")))
    if before is None or after is None:
        raise fail("it does not say the type before: from = '…'")
    if not widens(before, after):
        raise fail(f"{after} does not hold all that {before} held")
    details["from"], details["dtype"] = after.name, before.name


def _numbers(value: Json) -> list[int] | None:
    """The value if it is a list of integers."""
    if not isinstance(value, list):
        return None
    numbers = [item for item in value if type(item) is int]
    return numbers if len(numbers) == len(value) else None


def widens(before: DType, after: DType) -> bool:
    """Whether every value of `before` is a value of `after`."""
    if before is after:
        return True
    if before in _BITS and after in _BITS:
        (exponent, fraction), (wider_exponent, wider_fraction) = _BITS[before], _BITS[after]
        if after not in _IEEE_LIKE or _BITS[before] == _BITS[after]:  # of equal bits, FNUZ types have a smaller least
            return False
        return wider_exponent >= exponent and wider_fraction >= fraction
    if before.kind in ("int", "uint") and after.kind in ("int", "uint"):
        signed = after.kind == "int" or before.kind == "uint"
        return signed and after.bits >= before.bits + (before.kind == "uint" and after.kind == "int")
    return False
