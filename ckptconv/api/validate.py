"""`validate`: whether a checkpoint fits an architecture, and if not, why not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.fitting.compare import compare
from ckptconv.api.fitting.own_configuration import EVIDENCE as OWN
from ckptconv.api.fitting.own_configuration import compare_with_own
from ckptconv.api.open import open
from ckptconv.api.request import Request, arch_text
from ckptconv.errors import UnknownClassError

KERAS = "keras"
"""The format of Keras' archives."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.fitting.network_form import NetworkForm
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress


def validate(
    path: PathText,
    *,
    arch: PathText | None = None,
    settings: Sequence[str] = (),
    values: bool = False,
    format: str | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Check names, shapes, ties and params against an architecture, from headers alone unless `values` is given. (What
    a file of Keras holds twice is read, to see whether the two are equal.)

    Files with the names and layouts of Flax, Keras, mlx-lm or llama.cpp are checked under the names that
    ``--translate`` gives them, a GGUF's blocks as the floats that they stand for, and quantized weights as the plain
    ones that ``--dequantize`` makes of them.

    An archive of Keras (``.keras``) is checked against the layers in its own configuration, if `arch` is None.

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
        prepared, result = _with_own_configuration(request, opened)
        if result is None:
            prepared = _in_network_form(request, opened, headers=not values)
            result = _compare(request, prepared)
        if values:
            from ckptconv.checks.blame import causes_first
            from ckptconv.checks.values import check_values

            if result.evidence == OWN:  # values are judged by torch's names
                prepared = replace(prepared, checkpoint=_in_network_form(request, opened, headers=False).checkpoint)
            findings = [*result.findings, *check_values(prepared.checkpoint, progress)]
            result = replace(result, findings=causes_first(findings))
        return replace(result, findings=[*prepared.findings, *result.findings])


def _with_own_configuration(request: Request, opened: Checkpoint) -> tuple[NetworkForm, Validation | None]:
    """An archive of Keras with plain weights, and how it fits its own configuration; None where another is asked for,
    or there is none in it.
    """
    from ckptconv.api.fitting.network_form import NetworkForm

    if request.arch is not None or opened.format != KERAS:
        return NetworkForm(opened), None
    from ckptconv.api.editing.originals import as_dequantized

    plain, findings = as_dequantized(opened, request.path)
    return NetworkForm(plain, findings, bool(findings)), compare_with_own(request, plain)


def _in_network_form(request: Request, opened: Checkpoint, *, headers: bool) -> NetworkForm:
    """The tensors as architectures describe them; a graph gets back the names that its exporter dropped."""
    from ckptconv.api.fitting.network_form import NetworkForm, in_network_form

    if request.arch is not None and opened.notes.graph is not None:
        from ckptconv.api.fitting.naming import restore_names_from_architecture  # imports the whole ONNX reader

        return NetworkForm(restore_names_from_architecture(opened, request))
    return in_network_form(request, opened, headers=headers)


def _compare(request: Request, prepared: NetworkForm) -> Validation:
    """Compare with the library's architecture, or with the class that a config.json names if the library lacks it."""

    def compare_as(asked: Request) -> Validation:
        return compare(asked, prepared.checkpoint, dequantized=prepared.dequantized)

    try:
        return compare_as(request)
    except UnknownClassError as error:
        from ckptconv.api.fitting.installed import compare_with_installed_class

        return compare_with_installed_class(request, error, compare_as)
