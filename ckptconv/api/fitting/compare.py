"""Compares an open checkpoint with an architecture: what does not fit and why, and the values of the params."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.api.evidence import refuse_optimizer_state
from ckptconv.api.fitting.causes import foreign_name_causes, overall_causes
from ckptconv.arch.statements import CONFIG
from ckptconv.core.checkpoint import wholes
from ckptconv.core.report import Finding, errors_among
from ckptconv.core.spelling import to_json
from ckptconv.errors import ForeignNamesError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckptconv.api.fitting.resolve import Resolved
    from ckptconv.api.request import Request
    from ckptconv.arch.spec import ParamValue, Spec
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.spelling import Json


@dataclass(frozen=True, slots=True)
class Validation:
    """Whether a checkpoint fits an architecture.

    arch:     what it was compared with: a spec's name, another checkpoint's path, a Python reference.
    evidence: why that architecture was chosen.
    params:   the values that were bound.
    origins:  where each of these values came from.
    findings: causes before symptoms; the checkpoint is valid if none of them is an error.
    spec:     the spec, if it was compared with one.
    """

    path: Path
    arch: str
    evidence: str
    findings: list[Finding]
    params: Mapping[str, ParamValue] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    spec: Spec | None = field(default=None, repr=False)

    @property
    def valid(self) -> bool:
        """Whether ``load_state_dict(strict=True)`` would accept it, and nothing contradicts itself."""
        return not errors_among(self.findings)

    @property
    def assumed(self) -> list[str]:
        """The params with default values, which nothing in the file or beside it states."""
        from ckptconv.arch.equations import DEFAULT

        return [name for name, origin in self.origins.items() if origin == DEFAULT]

    def to_dict(self) -> dict[str, Json]:
        """The validation as ``validate --json`` prints it."""
        return {
            "path": str(self.path),
            "valid": self.valid,
            "arch": self.arch,
            "evidence": self.evidence,
            "params": {name: to_json(value) for name, value in self.params.items()},
            "findings": [finding.to_dict() for finding in self.findings],
        }


def compare(request: Request, checkpoint: Checkpoint, *, dequantized: bool = False) -> Validation:
    """Compare a checkpoint that was opened from the request's file. A config.json beside that file counts as evidence.

    dequantized: its weights are no longer quantized, whatever that config.json says.

    Raises UsageError where a comparison would say nothing about the file: if nothing says which architecture it is, if
    a config.json names one that the library lacks, or if the network is built differently from the nearest by name.
    """
    from ckptconv.api.fitting.resolve import resolve
    from ckptconv.checks.blame import causes_first
    from ckptconv.checks.validate import validate_spec, validate_table

    checkpoint = wholes(checkpoint)
    try:
        chosen = resolve(request, checkpoint)
        chosen = replace(chosen, quantized="") if dequantized else chosen
    except UsageError as error:
        _refuse_optimizers(request, checkpoint)
        if request.arch is None and (causes := foreign_name_causes(request, checkpoint)):
            message = f"nothing says which architecture this is: {causes[0].message}"
            raise ForeignNamesError(message, path=request.path, hint=causes[0].hint) from error
        raise
    if chosen.table is not None:
        verdict = validate_table(checkpoint, chosen.table)
    else:
        assert chosen.spec is not None
        verdict = validate_spec(checkpoint, chosen.spec, chosen.sources, chosen.solution, chosen.wrapper)
    findings = causes_first([*chosen.findings, *verdict.findings])
    if errors_among(findings):
        _refuse_unrelated(request, checkpoint, chosen, findings)
        findings[:0] = overall_causes(request, checkpoint, chosen, verdict)
    return Validation(
        request.path, chosen.name, chosen.evidence, findings, verdict.params, verdict.origins, chosen.spec
    )


def _refuse_unrelated(request: Request, checkpoint: Checkpoint, chosen: Resolved, findings: Sequence[Finding]) -> None:
    """Raise UsageError if the checkpoint is not of the chosen architecture at all: findings would be noise."""
    from ckptconv.api.fitting.resolve import unknown_class_error

    path = request.path
    _refuse_optimizers(request, checkpoint)
    if chosen.unknown_class is not None:
        raise unknown_class_error(chosen.unknown_class, path, chosen.name).at(path)
    if chosen.evidence == CONFIG and _have_nothing_in_common(findings, checkpoint):
        what = "none of its tensors is" if len(checkpoint) else "it has no tensors, and so not"
        raise UsageError(
            f"{what} one of {chosen.name}'s, which the config.json beside it names",
            path=path,
            hint=f"it is another part of a model, or of its training; --arch {chosen.name} says what differs",
        )


def _refuse_optimizers(request: Request, checkpoint: Checkpoint) -> None:
    if request.arch is None:
        refuse_optimizer_state(checkpoint, request.path, "validate the model's own file; --arch says what differs")


def _have_nothing_in_common(findings: Sequence[Finding], checkpoint: Checkpoint) -> bool:
    """Whether every tensor of the file is unexpected, all others are missing, and nothing explains it."""
    errors = errors_among(findings)
    unexpected = {finding.where for finding in errors if finding.code == "unexpected-tensor"}
    codes = {finding.code for finding in errors}
    return unexpected >= checkpoint.keys() and codes <= {"missing-tensor", "unexpected-tensor"}
