"""Checks a ``.keras`` archive against its own configuration: whether Keras' `load_model` accepts the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.fitting.compare import Validation
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.core.text import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.keras_expected import Expected

EVIDENCE = "own configuration"
"""Why that was chosen, in a validation."""


def compare_with_own(request: Request, checkpoint: Checkpoint) -> Validation | None:
    """Compare with the layers that the configuration in the file lists; None if there is none, or it lists none."""
    from ckptconv.edits.dialects.keras_expected import expected

    infos = infos_of(checkpoint)
    own = expected(infos, checkpoint.metadata)
    if own is None:
        return None
    errors = list(_errors(infos, own))
    errors.sort(key=lambda finding: finding.code)
    findings = [*errors, *_strays(infos, own), *_unchecked(own)]
    return Validation(request.path, own.model or "the model", EVIDENCE, findings)


def _errors(infos: Mapping[str, TensorInfo], own: Expected) -> Iterator[Finding]:
    for name, variable in own.variables.items():
        wanted = list(variable.shape)
        called = f"{variable.word} of {variable.layer!r}"
        if name not in infos:
            yield Finding(
                "missing-tensor", "error", name, f"{name}, the {called}, is missing (shape {wanted})", str(wanted)
            )
        elif infos[name].shape != variable.shape:
            found = list(infos[name].shape)
            message = f"{name}, the {called}, has the shape {found}; the configuration says {wanted}"
            yield Finding("shape-mismatch", "error", name, message, str(wanted), str(found))
    checked = {name.rpartition("/")[0] for name in own.variables}
    for name, info in infos.items():
        if name.rpartition("/")[0] in checked and name not in own.variables:
            message = f"{name} is one variable more than the configuration says (shape {list(info.shape)})"
            yield Finding("unexpected-tensor", "error", name, message, None, str(list(info.shape)))


def _strays(infos: Mapping[str, TensorInfo], own: Expected) -> Iterator[Finding]:
    """A warning for tensors of layers that the configuration does not have: Keras does not look at them."""
    strays = [name for name in infos if not _is_below(name, own.paths)]
    if strays:
        message = f"of no layer in the configuration, so that Keras does not read them: {listed(strays, 4)}"
        yield Finding("stray-tensor", "warning", strays[0], message)


def _is_below(name: str, paths: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:length]) in paths for length in range(1, len(parts)))


def _unchecked(own: Expected) -> Iterator[Finding]:
    for path, (name, why) in own.unchecked.items():
        yield Finding("unchecked", "info", path, f"{name!r} is not checked: {why}")
