"""Explains missing batch norms by their having been folded into the layers before, as exporters to ONNX do."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ckptconv.core.names import module_of
from ckptconv.core.report import Finding
from ckptconv.core.text import listed, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.checks.case import Case
    from ckptconv.edits.match import Shape

_HINT = "the checkpoint that it was exported from has the norms; diff compares the two with those folded"

_STATISTIC = ".running_var"


def explain_folded_norms(case: Case) -> None:
    """Batch norms that are missing where most of the layers before them got a bias, which the architecture lacks."""
    missing, unexpected = case.tensors_with("missing-tensor"), case.tensors_with("unexpected-tensor")
    norms = {module_of(name): case.expected[name] for name in missing if name.endswith(_STATISTIC)}
    sizes = set(norms.values())
    alike = {name: case.found[name] for name in unexpected if case.found[name] in sizes}
    biases = _taken(norms.values(), alike)
    # a norm under another name has four tensors of that size, not one
    if not norms or 2 * len(biases) < len(norms) or 2 * len(alike) > 3 * len(norms):
        return
    inside = {name for name in missing if module_of(name) in norms}
    weights = [name for name in missing if name not in inside]
    left = {name: case.found[name] for name in unexpected if name not in biases}
    renamed = _taken((case.expected[name] for name in weights), left)
    explained = _taken((case.found[name] for name in renamed), {name: case.expected[name] for name in weights})
    are = "is" if len(norms) == 1 else "are"
    message = (
        f"{plural(len(norms), 'batch norm')} {are} missing ({listed(list(norms))}), and "
        f"{plural(len(biases), 'tensor has', 'tensors have')} the shape of a bias: likely folded into the layers before"
    )
    first = next(name for name in missing if name in inside)
    case.causes.append(Finding("norms-folded", "error", first, message, hint=_HINT))
    case.remove("missing-tensor", inside | explained)
    case.remove("unexpected-tensor", biases | renamed)


def _taken(shapes: Iterable[Shape], found: Mapping[str, Shape]) -> set[str]:
    """The tensors that are found for these shapes, each for one."""
    by_shape: dict[Shape, list[str]] = defaultdict(list)
    for name, shape in found.items():
        by_shape[shape].append(name)
    return {name for shape, count in Counter(shapes).items() for name in by_shape[shape][:count]}
