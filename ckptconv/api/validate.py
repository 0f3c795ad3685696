"""`validate`: whether a checkpoint fits an architecture, and if not, why not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.api.fitting.compare import compare
from ckptconv.api.open import open
from ckptconv.api.request import Request, arch_text
from ckptconv.errors import UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.core.report import Finding


def validate(
    path: PathText,
    *,
    arch: PathText | None = None,
    settings: Sequence[str] = (),
    values: bool = False,
    format: str | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Check names, shapes, ties and params against an architecture, from headers alone unless `values` is given.

    A GGUF with llama.cpp's names is checked under transformers' names, with blocks as the floats that they stand for.
    Quantized weights are checked as the plain ones that ``--dequantize`` makes of them.

    A class that the library lacks is built by the installed transformers or diffusers, which imports torch.

    arch:     a library name (``"mlp"``), a spec file (``"my.toml"``), another checkpoint, a Hugging Face
              ``config.json`` (its class is built by the installed transformers or diffusers), or Python code that you
              trust (``"models.py:Net"``, which is imported and called). None: chosen by evidence
              (`ckptconv.arch.choose`).
    settings: ``"name=value"`` params, which outrank everything else.
    values:   also read every tensor, for NaN, Inf, all-zero weights and negative variances. A GGUF's blocks need the
              `gguf` package for this; without it, MissingExtraError.

    Raises UsageError if no architecture can be named. A checkpoint that does not fit raises nothing.
    """
    request = Request(path, arch_text(arch), settings, read_as=format)
    with open(path, format=format, progress=progress) as opened:
        prepared = _prepare(request, opened, values=values)
        result = _compare(request, prepared)
        if values:
            from ckptconv.checks.blame import causes_first
            from ckptconv.checks.values import check_values

            findings = [*result.findings, *check_values(prepared.checkpoint, progress)]
            result = replace(result, findings=causes_first(findings))
        return replace(result, findings=[*prepared.findings, *result.findings])


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The checkpoint in the form that architectures describe, and findings about how it got there.

    dequantized: its weights are no longer quantized, whatever a configuration says.
    """

    checkpoint: Checkpoint
    findings: Sequence[Finding] = ()
    dequantized: bool = False


def _prepare(request: Request, opened: Checkpoint, *, values: bool) -> _Prepared:
    """Give a graph the names that it lost, a GGUF transformers' names; turn quantized weights into plain ones."""
    from ckptconv.api.editing.originals import as_dequantized, as_floats, in_transformers_names

    if request.arch is not None and opened.notes.graph is not None:
        from ckptconv.api.fitting.naming import restore_names_from_architecture  # imports the whole ONNX reader

        return _Prepared(restore_names_from_architecture(opened, request))
    translated, findings = in_transformers_names(opened, request.path)
    dequantized = False
    if not findings:
        translated, findings = as_dequantized(opened, request.path)
        dequantized = bool(findings)
    if not findings or _is_for_stored_names(request, opened, translated):
        return _Prepared(opened)
    return _Prepared(as_floats(translated, headers=not values), findings, dequantized)


def _is_for_stored_names(request: Request, opened: Checkpoint, translated: Checkpoint) -> bool:
    """Whether ``--arch`` describes the tensors as the file stores them: it is another GGUF or quantized checkpoint, or
    a spec that was made from one.
    """
    from ckptconv.api.fitting.resolve import table_for
    from ckptconv.arch.huggingface import is_config
    from ckptconv.arch.load import library_names

    if request.arch is None or request.arch in library_names() or is_config(request.arch):
        return False

    def names_in_common(checkpoint: Checkpoint) -> int:
        table = table_for(request, checkpoint)
        return 0 if table is None else len(table.tensors.keys() & checkpoint.keys())

    return names_in_common(opened) > names_in_common(translated)


def _compare(request: Request, prepared: _Prepared) -> Validation:
    """Compare with the library's architecture, or with the class that a config.json names if the library lacks it."""

    def compare_as(asked: Request) -> Validation:
        return compare(asked, prepared.checkpoint, dequantized=prepared.dequantized)

    try:
        return compare_as(request)
    except UnknownClassError as error:
        from ckptconv.api.fitting.installed import compare_with_installed_class

        return compare_with_installed_class(request, error, compare_as)
