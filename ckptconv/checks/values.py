"""Values that no trained model should hold, found by reading every tensor once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.checks.stats import stats_of
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.checks.stats import Stats
    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import LazyTensor

ZEROS_ARE_FINE = ("bias", "running_mean", "num_batches_tracked", "beta", "mask", "zero_point", "position_ids")
"""Words in the last components of names whose tensors are often all zero in a healthy model."""


def check_values(tensors: Mapping[str, LazyTensor], progress: Progress | None = None) -> list[Finding]:
    """NaN and Inf are errors; weights that are all zero and negative running variances are warnings."""
    first_names: dict[object, str] = {}
    for name, tensor in tensors.items():
        first_names.setdefault(tensor.identity(name), name)
    names = list(first_names.values())
    found = stats_of([tensors[name] for name in names], progress)
    return [
        finding for name, figures in zip(names, found, strict=True) for finding in _check(name, tensors[name], figures)
    ]


def _check(name: str, tensor: LazyTensor, figures: Stats | None) -> list[Finding]:
    if figures is None or tensor.info.numel == 0:
        return []
    found = []
    if figures.nan or figures.inf:
        counts = " and ".join(f"{n} {what}" for n, what in ((figures.nan, "NaN"), (figures.inf, "Inf")) if n)
        message = f"{name} holds {counts} among {tensor.info.numel:,} values"
        wide = ".float()" if tensor.info.dtype.bits <= 8 else ""  # torch has isfinite for only some of these types
        hint = f"(~state_dict[{name!r}]{wide}.isfinite()).nonzero()"
        found.append(Finding("non-finite", "error", name, message, "finite values", counts, hint))
    last = name.rpartition(".")[2]
    numbers = tensor.info.dtype.kind in ("float", "complex")
    if numbers and figures.zeros == tensor.info.numel > 1 and not any(word in last for word in ZEROS_ARE_FINE):
        message = f"{name} is all zero, as if it had never been trained or loaded"
        found.append(Finding("all-zero", "warning", name, message, "weights", "zeros"))
    if last == "running_var" and figures.min is not None and figures.min < 0:
        message = f"{name} holds a negative variance ({figures.min:g})"
        hint = f"state_dict[{name!r}].clamp_(min=0)"
        found.append(Finding("negative-variance", "warning", name, message, "≥ 0", f"{figures.min:g}", hint))
    return found
