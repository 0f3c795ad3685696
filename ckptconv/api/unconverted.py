"""A GGUF as what llama.cpp's converter made it of: under transformers' names, its blocks as the floats they stand for.

So `diff` and `verify` set it beside a model of transformers'. By shapes and values alone tensors of blocks are not told
apart: what is quantized, and whose heads are in another order, has no value in common with what it was.
"""

from __future__ import annotations

from contextlib import suppress
from os import fspath
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, EditError, MissingExtraError, UnsupportedError, UsageError
from ckptconv.formats import registry

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor

DIALECT = "gguf"

LITTLE = 2
"""Of so many names of the other one has to be a name of transformers' too, or they are of other models."""


def as_floats(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with F32 in place of blocks of ggml's, of which torch has no tensors: what ``--dtype F32`` makes.

    Raises MissingExtraError without the `gguf` package, UnsupportedError for a type that it does not unpack.
    """
    if all(tensor.info.dtype.block == 1 for tensor in checkpoint.values()):
        return checkpoint
    from ckptconv.api.naming import with_tensors  # it needs all of the ONNX reader

    tensors = {name: _as_float(tensor) for name, tensor in checkpoint.items()}
    return with_tensors(checkpoint, tensors, checkpoint.findings)


def _as_float(tensor: LazyTensor) -> LazyTensor:
    from ckptconv.edits.apply import cast_to

    return cast_to(tensor, DType.F32) if tensor.info.dtype.block > 1 else tensor


def in_transformers_names(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """A GGUF with llama.cpp's names under transformers', which is said in its findings; any other as it is.

    Reads nothing. Raises EditError, UnsupportedError where it is an architecture's whose names are not known here.
    """
    if not _has_llama_cpps_names(checkpoint):
        return checkpoint
    from ckptconv.api.editing import edited
    from ckptconv.api.edits import Edits
    from ckptconv.api.naming import with_tensors
    from ckptconv.edits.name_rule import NameRule

    made, _ = edited(checkpoint, Edits(names=[NameRule("translate", DIALECT)]))
    message = f"{fspath(path)} is read under transformers' names, which --translate {DIALECT} makes of its own"
    return with_tensors(made, dict(made), (*made.findings, Finding("translated", "info", "", message)))


def set_beside(
    a: Checkpoint, b: Checkpoint, paths: tuple[Path, Path], *, values: bool
) -> tuple[Checkpoint, Checkpoint, list[Finding]]:
    """Both as they are compared, and what is told of that: where one alone is a GGUF with llama.cpp's names, and the
    other has those that transformers has for its tensors, the first under these; with `values`, blocks as floats.
    """
    ours, theirs = _beside(a, b, paths[0], values=values), _beside(b, a, paths[1], values=values)
    told = [finding for side in (ours, theirs) if side is not None for finding in side.findings[-1:]]
    return ours or a, theirs or b, told


def _beside(one: Checkpoint, other: Checkpoint, path: Path, *, values: bool) -> Checkpoint | None:
    """The one under the other's names; None where it stays as it is."""
    if not _has_llama_cpps_names(one) or _has_llama_cpps_names(other):
        return None
    try:
        made = in_transformers_names(one, path)
    except (EditError, UnsupportedError, UsageError):
        return None
    if LITTLE * len(made.keys() & other.keys()) < len(other):
        return None
    if values:
        from ckptconv.api.naming import with_tensors

        with suppress(MissingExtraError, UnsupportedError):  # blocks stay blocks, and are not compared
            message = made.findings[-1].message
            blocks = sum(tensor.info.dtype.block > 1 for tensor in made.values())
            message += "; blocks are compared as the floats that they stand for" if blocks else ""
            found = Finding("translated", "info", "", message)
            return with_tensors(made, {name: _as_float(tensor) for name, tensor in made.items()}, (found,))
    return made


def _has_llama_cpps_names(checkpoint: Checkpoint) -> bool:
    try:
        if registry.by_name(checkpoint.format).dialect != DIALECT:
            return False
    except CkptconvError:  # of a format that is in no table
        return False
    from ckptconv.api.dialects import dialect_of

    return dialect_of(checkpoint) == DIALECT
