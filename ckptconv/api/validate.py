"""Whether a checkpoint fits an architecture, and if not, why not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.api.fitting.compare import compare
from ckptconv.api.open import open
from ckptconv.api.request import Request, name_of
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

    A GGUF with llama.cpp's names is checked under transformers' names, with blocks as the floats that they stand for;
    quantized weights are checked as the plain ones that ``--dequantize`` makes of them.

    For a class that the library lacks, the installed transformers is asked (it and torch are imported then).

    arch:     a library name (``"mlp"``), a spec file (``"my.toml"``), another checkpoint, a Hugging Face
              ``config.json`` (its class is built by the installed transformers or diffusers), or Python code that you
              trust (``"models.py:Net"``, which is imported and called). None: chosen by evidence
              (`ckptconv.arch.choose`).
    settings: ``"name=value"`` params, which outrank everything else.
    values:   also read every tensor, for NaN, Inf, all-zero weights and negative variances. A GGUF's blocks need the
              `gguf` package for this; without it, MissingExtraError.

    Raises UsageError if no architecture can be named. A checkpoint that does not fit raises nothing.
    """
    request = Request(path, name_of(arch), settings, read_as=format)
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
    """A file with the tensors that the architecture has, as far as that is known, and what is reported about that.

    made_plain: its weights are no longer quantized, whatever a configuration says.
    """

    checkpoint: Checkpoint
    told: Sequence[Finding] = ()
    made_plain: bool = False


def _as_judged(request: Request, opened: Checkpoint, *, values: bool) -> _Judged:
    """A graph under the names that it lost, a GGUF under transformers' names, quantized weights as plain ones."""
    from ckptconv.api.editing.originals import as_floats, as_plain, in_transformers_names

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
    """Whether ``--arch`` is an architecture with the file's own tensors: another GGUF or quantized checkpoint, or a
    spec that was made from one.
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
    """The comparison; with the class that a config.json names, if the library lacks it."""

    def asked(of: Request) -> Validation:
        return compare(of, judged.checkpoint, made_plain=judged.made_plain)

    try:
        return asked(request)
    except UnknownClassError as error:
        from ckptconv.api.fitting.installed import by_its_class

        return by_its_class(request, error, asked)
