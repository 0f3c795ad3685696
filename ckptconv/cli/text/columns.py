"""What `inspect` shows of each tensor: type, shape, ties and statistics, as columns of the tree and of ``--list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.cli.output import printable
from ckptconv.cli.text import composite
from ckptconv.cli.text.tree import Columns

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from ckptconv.api.inspect import Inspection
    from ckptconv.checks.stats import Stats
    from ckptconv.cli.text.tree import Kind, Weigh
    from ckptconv.core.checkpoint import Checkpoint

STATS = ("min", "max", "mean", "std", "nan", "inf", "zeros")
"""The columns that --stats adds."""

MAX_NAME_LENGTH = 80
"""The most characters of such a name to show."""


def _shape(shape: Iterable[int], comma: str = ", ") -> str:
    return f"[{comma.join(map(str, shape))}]"


def tree_columns(checkpoint: Checkpoint, tied: Mapping[str, str], stats: Mapping[str, Stats | None] | None) -> Columns:
    """The columns of the tree; statistics only if there are `stats`."""
    tensors, composites = checkpoint.all_tensors, checkpoint.composites

    def cells(name: str) -> list[str]:
        whole = composites.get(name)
        info = whole or tensors[name].info
        note = [composite.how(whole)] if whole else []
        note += [f"= {short_tied_name(tied[name])}"] if name in tied else []
        figures = _figures(stats, name) if name in tensors else ["" for _ in _heads(stats)]
        return [info.dtype.name, _shape(info.shape), *figures, *note]

    return Columns(["DTYPE", "SHAPE", *_heads(stats)], frozenset(range(2, 2 + len(_heads(stats)))), cells)


def weights_of(checkpoint: Checkpoint, tied: Mapping[str, str]) -> Weigh:
    """Elements and bytes, as stored: tied tensors count once, under their first name, and composites by their parts."""
    tensors, composites = checkpoint.all_tensors, checkpoint.composites

    def weigh(name: str) -> tuple[int, int]:
        if name in tied or (name in composites and name not in tensors):
            return 0, 0
        info = tensors[name].info
        return info.numel, info.nbytes

    return weigh


def kind_of(checkpoint: Checkpoint) -> Kind:
    """What layers need to have in common to be folded into one: element types and shapes."""
    tensors, composites = checkpoint.all_tensors, checkpoint.composites

    def kind(name: str) -> Hashable:
        if name in composites:
            return composites[name].summary
        info = tensors[name].info
        return info.dtype.name, info.shape

    return kind


def kind_without_shape(checkpoint: Checkpoint) -> Kind:
    """Like `kind_of`, but without the shape: an optimizer's states are alike for parameters of any shape."""
    tensors, composites = checkpoint.all_tensors, checkpoint.composites
    return lambda name: composites[name].summary if name in composites else tensors[name].info.dtype.name


def list_columns(inspection: Inspection, stats: Mapping[str, Stats | None] | None) -> Columns:
    """The columns of ``--list``; statistics only if there are `stats`."""
    tensors, extras, tied = (
        inspection.checkpoint.all_tensors, inspection.checkpoint.extras, inspection.checkpoint.tied_to,
    )  # fmt: skip
    parts = composite.notes(inspection.checkpoint)

    def cells(name: str) -> list[str]:
        info = tensors[name].info
        notes = [f"({parts[name]})"] if name in parts else []
        notes += [f"={printable(tied[name])}"] if name in tied else []
        notes += ["extra"] if name in extras else []
        return [info.dtype.name, _shape(info.shape, ","), str(info.nbytes), *_figures(stats, name), *notes]

    heads = ["DTYPE", "SHAPE", "BYTES", *_heads(stats)]
    return Columns(heads, frozenset(range(2, len(heads))), cells)


def _heads(stats: Mapping[str, Stats | None] | None) -> list[str]:
    return [] if stats is None else [name.upper() for name in STATS]


def _figures(stats: Mapping[str, Stats | None] | None, name: str) -> list[str]:
    return [] if stats is None else [text for _, text in statistics(stats[name])]


def statistics(stats: Stats | None) -> list[tuple[str, str]]:
    """A tensor's statistics as text, by name."""
    values = {} if stats is None else stats.to_dict()
    return [(name, number(values.get(name))) for name in STATS]


def number(value: float | int | None) -> str:
    """A statistic with four significant digits; counts and other integers in full."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def short_tied_name(name: str) -> str:
    """The name, or both ends of one that would fill a line: Lightning's callbacks have their settings in it."""
    name = printable(name)
    half = MAX_NAME_LENGTH // 2
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[:half]}…{name[-half:]}"
