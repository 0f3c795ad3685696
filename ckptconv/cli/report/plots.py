"""Histograms of relative changes as SVG: one of all elements, and one for each of the groups that changed most.

matplotlib draws; its colours are placeholders here, which become the page's own, so that plots follow light and dark.
No text from a file gets into a plot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from math import ceil, floor, log2, log10
from typing import TYPE_CHECKING, Any

from ckptconv.checks.histogram import BINS, FIRST
from ckptconv.cli.text.diff_parts import share, spell_range, times, value_groups
from ckptconv.core.text import approximately, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes

    from ckptconv.api.diff import Difference
    from ckptconv.checks.compare_values import Values

MOST_PLOTS = 24
"""How many groups are drawn; each takes matplotlib some 20 ms."""

INK, FILL, LINE = "#000001", "#000002", "#000003"
_THEME = {INK: "var(--soft)", FILL: "var(--bar)", LINE: "var(--line)"}

ROUNDING = {"F32": -24, "F16": -11, "BF16": -8}
"""The power of two by which rounding to a type changes a number at most: half of the last place, IEEE 754."""

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "ckptconv", "svg.image_inline": True, "font.size": 9, "axes.linewidth": 0.8,
    "axes.edgecolor": LINE, "axes.labelcolor": INK, "text.color": INK, "xtick.color": LINE, "ytick.color": LINE,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing, with its title and a note."""

    title: str
    note: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Plots:
    """The histogram of everything, those of single groups, and how many groups are not drawn."""

    overall: Plot | None
    groups: Sequence[Plot]
    left: int


def plots(result: Difference) -> Plots:
    """The histograms of a difference whose values have bins."""
    overall = _summed_bins(result.values.values())
    if not any(overall):
        return Plots(None, [], 0)
    groups, _ = value_groups(result)
    counted = [(group, _summed_bins(group.known)) for group in groups]
    drawn = [(group, bins) for group, bins in counted if any(bins)]
    reach = _reach(overall)
    small = [
        Plot(
            f"{spell_range(group.names)} {times(len(group.names))}".rstrip(),
            _note(group.known, bins),
            _draw(bins, reach, f"g{i}"),
        )
        for i, (group, bins) in enumerate(drawn[:MOST_PLOTS])
    ]
    everything = Plot("all changed tensors", _note(result.values.values(), overall), _draw(overall, reach, "all"))
    return Plots(everything, small if len(drawn) > 1 else [], max(0, len(drawn) - MOST_PLOTS))


def _summed_bins(all_values: Iterable[Values]) -> list[int]:
    rows = [values.bins for values in all_values if values.bins is not None]
    return [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * BINS


def _note(all_values: Iterable[Values], bins: Sequence[int]) -> str:
    known = list(all_values)
    elements, differing, nan, signs = (
        sum(getattr(values, name) for values in known) for name in ("elements", "differing", "nan", "signs")
    )
    parts = [f"{share(differing, elements)} of {plural(elements, 'element')} changed"]
    rest = differing - nan - signs - sum(bins)
    for count, text in ((rest, "from zero or to infinity"), (nan, "in being NaN"), (signs, "in the sign of zero")):
        if count:
            parts.append(f"{count:,} {text}")
    return "; ".join(parts)


def _reach(bins: Sequence[int]) -> tuple[int, int]:
    """The range of every drawing's axis, as powers of ten: the smallest around all filled bins, of two at least."""
    filled = [i for i, count in enumerate(bins) if count]
    low, high = FIRST + filled[0], FIRST + filled[-1] + 1
    return floor(log10(2.0**low)), max(ceil(log10(2.0**high)), floor(log10(2.0**low)) + 2)


def _draw(bins: Sequence[int], reach: tuple[int, int], key: str) -> Markup:
    """One histogram; `key` keeps its identifiers apart from those of the page's others."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    is_large = key == "all"
    settings: Any = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}
    with mpl.rc_context(settings | _SETTINGS):
        figure = Figure(figsize=(5.6, 1.9) if is_large else (3.4, 1.5))
        margins = (0.09, 0.19, 0.89, 0.66) if is_large else (0.14, 0.22, 0.84, 0.7)
        axes = figure.add_axes(margins)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        axes.stairs(bins, range(FIRST, FIRST + BINS + 1), fill=True, color=FILL, linewidth=0)
        _scale(axes, bins, reach)
        if is_large:
            _mark_rounding(axes, reach)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(text.getvalue(), key)


def _scale(axes: Axes, bins: Sequence[int], reach: tuple[int, int]) -> None:
    low, high = reach
    step = max(1, ceil((high - low) / 8))
    tens = range(low, high + 1, step)
    axes.set_xlim(low * log2(10), high * log2(10))
    axes.set_xticks([ten * log2(10) for ten in tens], [f"1e{ten}" for ten in tens])
    most = max(1, *bins)
    axes.set_ylim(0, most * 1.04)
    axes.set_yticks([most], [str(most) if most < 1000 else approximately(most).replace(" ", "")])


def _mark_rounding(axes: Axes, reach: tuple[int, int]) -> None:
    for name, power in ROUNDING.items():
        if reach[0] * log2(10) < power < reach[1] * log2(10):
            axes.axvline(power, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
            axes.text(power, 1.03, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom")


def _inline(svg: str, key: str) -> Markup:
    """The drawing as part of a page: it scales, takes the page's font and colours, and shares no identifier."""
    from markupsafe import Markup

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[0-9.]+pt"', "", svg, count=2)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    for placeholder, colour in _THEME.items():
        svg = svg.replace(placeholder, colour)
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))  # noqa: S704  # no file's text
