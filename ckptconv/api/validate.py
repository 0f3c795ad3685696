"""Checking a checkpoint against an architecture."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ckptconv.api.open import open
from ckptconv.api.request import Request
from ckptconv.arch.statements import CONFIG
from ckptconv.core.checkpoint import wholes
from ckptconv.core.report import Finding, errors_among
from ckptconv.core.spelling import to_json
from ckptconv.core.tensor import infos_of
from ckptconv.errors import ForeignNamesError, UnknownClassError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ckptconv.api.fitting.resolve import Resolved
    from ckptconv.api.open import PathText
    from ckptconv.arch.bind import Source
    from ckptconv.arch.spec import ParamValue, Spec
    from ckptconv.arch.table import Table
    from ckptconv.checks.verdict import Verdict
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.core.spelling import Json

LITTLE = 0.1
"""Share of names in common below which two architectures are strangers."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Whether a checkpoint fits an architecture.

    arch:     what it was compared with: a spec's name, another checkpoint's path, a Python reference.
    evidence: why that one.
    params:   what was bound, and in `origins` from where.
    findings: causes before symptoms; valid means that none of them is an error.
    spec:     the spec, where it was compared with one.
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
        """Whether ``load_state_dict(strict=True)`` would take it, and nothing contradicts itself."""
        return not errors_among(self.findings)

    @property
    def assumed(self) -> list[str]:
        """The params that are defaults: nothing in the file or beside it says them."""
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


def validate(
    path: PathText,
    *,
    arch: str | None = None,
    settings: Sequence[str] = (),
    values: bool = False,
    format: str | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Check names, shapes, ties and params against an architecture, from headers alone unless `values` is asked for.

    A GGUF with llama.cpp's names is judged under transformers', blocks as the floats that they stand for; quantized
    weights are judged as the plain ones that ``--dequantize`` makes of them.

    Of a class that the library lacks the transformers that is installed is asked (torch and it are imported then).

    arch:     a library name (``"mlp"``), a spec file (``"my.toml"``), another checkpoint, a Hugging Face
              ``config.json`` (its class is built by the transformers or diffusers that is installed), or Python that
              you vouch for (``"models.py:Net"``, which is imported and called). None: chosen by evidence
              (`ckptconv.arch.choose`).
    settings: ``"name=value"`` params, which outrank everything else.
    values:   also read every tensor, for NaN, Inf, all-zero weights and negative variances. Of a GGUF's blocks it
              takes the `gguf` package: else MissingExtraError.

    Raises UsageError where no architecture can be named; a checkpoint that does not fit raises nothing.
    """
    request = Request(path, arch, settings, read_as=format)
    with open(path, format=format, progress=progress) as opened:
        judged = _as_judged(request, opened, values=values)
        result = _compared(request, judged)
        if values:
            from ckptconv.checks.blame import causes_first
            from ckptconv.checks.values import check_values

            found = [*result.findings, *check_values(judged.checkpoint, progress)]
            result = replace(result, findings=causes_first(found))
        return replace(result, findings=[*judged.told, *result.findings])


@dataclass(frozen=True, slots=True)
class _Judged:
    """A file with the tensors that the architecture has, where that is known, and what is told of that.

    made_plain: its weights are no longer quantized, whatever a configuration says.
    """

    checkpoint: Checkpoint
    told: Sequence[Finding] = ()
    made_plain: bool = False


def _as_judged(request: Request, opened: Checkpoint, *, values: bool) -> _Judged:
    """A graph under the names that it lost, a GGUF under transformers', quantized weights as plain ones."""
    from ckptconv.api.editing.unconverted import as_floats, as_plain, in_transformers_names

    if request.arch is not None and opened.notes.graph is not None:
        from ckptconv.api.fitting.naming import named_by_architecture  # it needs all of the ONNX reader

        return _Judged(named_by_architecture(opened, request))
    made, told = in_transformers_names(opened, request.path)
    made_plain = False
    if not told:
        made, told = as_plain(opened, request.path)
        made_plain = bool(told)
    if not told or _is_of_its_own_names(request, opened, made):
        return _Judged(opened)
    return _Judged(as_floats(made, headers=not values), told, made_plain)


def _is_of_its_own_names(request: Request, opened: Checkpoint, other: Checkpoint) -> bool:
    """Whether ``--arch`` is an architecture of the file's own tensors: another GGUF or quantized checkpoint, a spec
    that was made from one.
    """
    from ckptconv.api.fitting.resolve import table_for
    from ckptconv.arch.huggingface import is_config
    from ckptconv.arch.load import library_names

    if request.arch is None or request.arch in library_names() or is_config(request.arch):
        return False

    def in_common(checkpoint: Checkpoint) -> int:
        table = table_for(request, checkpoint)
        return 0 if table is None else len(table.tensors.keys() & checkpoint.keys())

    return in_common(opened) > in_common(other)


def _compared(request: Request, judged: _Judged) -> Validation:
    """The comparison; with the class that a config.json names, where the library lacks it."""

    def asked(of: Request) -> Validation:
        return compare(of, judged.checkpoint, made_plain=judged.made_plain)

    try:
        return asked(request)
    except UnknownClassError as error:
        from ckptconv.api.fitting.installed import by_its_class

        return by_its_class(request, error, asked)


def compare(request: Request, checkpoint: Checkpoint, *, made_plain: bool = False) -> Validation:
    """Check a checkpoint that is open, of the file that the request is about: a config.json may lie beside it.

    made_plain: its weights are no longer quantized, whatever that says.

    Raises UsageError where nothing says which architecture it is, and where a config.json names one that the library
    lacks, or the network is built otherwise than the nearest by name: that would be no verdict on the file.
    """
    from ckptconv.api.fitting.resolve import resolve
    from ckptconv.checks.blame import causes_first
    from ckptconv.checks.validate import validate_spec, validate_table

    checkpoint = wholes(checkpoint)
    try:
        chosen = resolve(request, checkpoint)
        chosen = replace(chosen, quantized="") if made_plain else chosen
    except UsageError as error:
        if request.arch is None and (causes := _of_another_framework(request, checkpoint)):
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
        _refuse_strangers(request, checkpoint, chosen, findings)
        findings[:0] = _causes(request, checkpoint, chosen, verdict)
    return Validation(
        request.path, chosen.name, chosen.evidence, findings, verdict.params, verdict.origins, chosen.spec
    )


def _refuse_strangers(request: Request, checkpoint: Checkpoint, chosen: Resolved, findings: Sequence[Finding]) -> None:
    """Raise UsageError where the checkpoint is of something else than was chosen: findings would mean nothing."""
    from ckptconv.api.fitting.resolve import stranger

    path = request.path
    if request.arch is None and any(finding.code == "optimizer" for finding in checkpoint.findings):
        raise UsageError(
            "this is the state of an optimizer, which no architecture describes", path=path,
            hint="validate the model's own file; --arch says what differs",
        )  # fmt: skip
    if chosen.stranger is not None:
        raise stranger(chosen.stranger, path, chosen.name).at(path)
    if chosen.evidence == CONFIG and _have_nothing_in_common(findings, checkpoint):
        what = "none of its tensors is" if len(checkpoint) else "it has no tensors, and so not"
        raise UsageError(
            f"{what} one of {chosen.name}'s, which the config.json beside it names",
            path=path,
            hint=f"an optimizer's state is no model; --arch {chosen.name} says what differs",
        )


def _causes(request: Request, checkpoint: Checkpoint, chosen: Resolved, verdict: Verdict) -> list[Finding]:
    """What explains all errors at once: another framework's names, quantized weights, another architecture.

    Raises UsageError where the network is built otherwise than the nearest by name.
    """
    quantized = [_quantized(request, chosen, checkpoint)] if chosen.quantized else []
    if causes := _of_another_framework(request, checkpoint, chosen.spec, verdict.table):
        return [*causes, *quantized]
    built = any(finding.code != "prefixed" for finding in errors_among(verdict.findings))
    if request.arch is None and chosen.evidence == "names" and verdict.table is not None and built:
        from ckptconv.api.fitting.resolve import kin
        from ckptconv.checks.validate import built_otherwise

        if any(found := built_otherwise(checkpoint, verdict.table, chosen.strays)):
            raise kin(chosen.name, found).at(request.path)
    if chosen.spec is not None and chosen.evidence != "names":
        return [*_of_another_architecture(request, checkpoint, chosen.spec, chosen.sources), *quantized]
    return quantized


def _have_nothing_in_common(findings: Sequence[Finding], checkpoint: Checkpoint) -> bool:
    """Whether every tensor of the file is unexpected, all others are missing, and nothing explains it."""
    errors = errors_among(findings)
    strangers = {finding.where for finding in errors if finding.code == "unexpected-tensor"}
    return strangers >= checkpoint.keys() and {finding.code for finding in errors} <= {
        "missing-tensor", "unexpected-tensor"
    }  # fmt: skip


def _of_another_architecture(
    request: Request, checkpoint: Checkpoint, spec: Spec, sources: Sequence[Source]
) -> list[Finding]:
    """The cause of all the rest where the names are those of another architecture of the library."""
    from ckptconv.arch.choose import choose, unwrapped
    from ckptconv.arch.rating import overlap
    from ckptconv.arch.solver import solve

    infos = infos_of(checkpoint)
    try:
        other = choose(infos)
    except UsageError:
        return []
    share = overlap(solve(spec, unwrapped(infos, other.wrapper), sources), unwrapped(infos, other.wrapper))
    if other.spec.name == spec.name or share >= LITTLE:
        return []
    message = f"the names of its tensors are those of {other.spec.name}, and not of {spec.name}"
    line = request.line("validate", "--arch", other.spec.name)
    return [Finding("architecture", "error", "", message, spec.name, other.spec.name, hint=line)]


def _of_another_framework(
    request: Request, checkpoint: Checkpoint, spec: Spec | None = None, table: Table | None = None
) -> list[Finding]:
    """The cause of all the rest where names and layouts are another framework's."""
    from ckptconv.api.editing.dialects import dialect_of
    from ckptconv.edits.name_rule import MLX, TO_LDM
    from ckptconv.edits.translate import GIVES, by_names

    dialect = dialect_of(checkpoint)
    if spec is not None and spec.config.architectures and dialect in ("", TO_LDM):  # a class of Hugging Face's
        dialect = by_names(checkpoint)
    if not dialect or (spec is None and dialect == TO_LDM):  # a pipeline's own names, each model's to be checked alone
        return []
    if dialect != MLX and table is not None and 2 * len(table.tensors.keys() & checkpoint.keys()) > len(checkpoint):
        return []  # the architecture has these names too; mlx-lm changes few
    message = f"names and layouts are not {GIVES[dialect]}, which --translate {dialect} makes of them"
    line = request.line("convert", "translated.pth", "--translate", dialect)
    return [Finding("dialect", "error", "", message, hint=line)]


def _quantized(request: Request, chosen: Resolved, checkpoint: Checkpoint) -> Finding:
    """The cause of all the rest: quantizers store other tensors under other names."""
    from ckptconv.api.editing.dialects import is_in_mlxs_layout
    from ckptconv.edits.name_rule import MLX
    from ckptconv.edits.quantized.config import METHODS

    method = chosen.quantized
    message = (
        f"the weights are quantized ({method!r}, says a file beside them); {chosen.name} describes them as they were"
    )
    more = ["--translate", MLX] if is_in_mlxs_layout(checkpoint) else []
    line = request.line("convert", "plain.safetensors", "--dequantize", *more)
    hint = line if method in METHODS else "validate what it was made from"
    return Finding("quantized", "error", "", message, None, method, hint=hint)
