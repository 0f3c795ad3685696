"""`convert`: a checkpoint into another file."""

from __future__ import annotations

import os
import shlex
from os import fspath
from typing import TYPE_CHECKING

from ckptconv.api.converting.consent import parse_allowed
from ckptconv.api.converting.destination import choose_format, parse_shard_size
from ckptconv.api.converting.job import Job
from ckptconv.api.converting.order import Order
from ckptconv.api.editing.edits import Edits
from ckptconv.api.editing.step_files import StepFiles
from ckptconv.api.open import open
from ckptconv.api.request import Request, arch_text, as_tuple, option_words, pair_words
from ckptconv.errors import FileAccessError
from ckptconv.io.source import CHECK_PATH

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ckptconv.api.converting.conversion import Conversion
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.progress import Progress


def convert(
    source: PathText,
    target: PathText,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    bare: bool = False,
    metadata: Mapping[str, MetaNode] | None = None,
    allow_loss: str | Collection[str] = (),
    arch: PathText | None = None,
    settings: Sequence[str] = (),
    with_params: bool = False,
    inputs: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    edits: Edits | None = None,
    shard_size: str | int | None = None,
    verify: bool = False,
    with_files: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert `source` into a new file `target` (a new folder, if the format is one). The suffix or `to_format` chooses
    the format.

        ckptconv.convert("model.pth", "model.safetensors")
        ckptconv.convert("training.ckpt", "half.safetensors", bare=True, edits=ckptconv.Edits(dtype="F16"))
        ckptconv.convert("model.pth", "model.gguf", allow_loss="metadata", dry_run=True).losses

    force:      replace an existing target.
    dry_run:    write nothing; list what would be lost. Tensors to be cast are read, to find overflows.
    bare:       write only the model's tensors, without metadata and extras.
    metadata:   top-level keys to set.
    allow_loss: a code, or several codes, of losses that you agree to: "metadata", "extras" (tensors outside of the
                model), "opaque" (objects that are not built, calls that are not made), "tie", "composite" (several
                tensors that form one quantized or sparse tensor), "dtype", "overflow", "all".

    arch:        the architecture that the source must fit, as in `validate`; the target keeps it as a note. For an
                 adapter that is translated to llama.cpp's format: the base model's config.json, or its folder.
    settings:    ``"name=value"`` params of that architecture, which outrank everything else.
    with_params: also write the architecture's required params into the metadata, unless they are there already.
                 Without `arch`, the architecture is chosen by evidence.
    inputs:      ``"x:F32[N,3,224,224]"`` for each input of the Python code that `arch` names, if a graph is made from
                 it.
    options:     the target format's own options by name, as ``ckptconv formats NAME`` lists them.
    edits:       what is done to the model's tensors on the way (`Edits`); `arch` describes the result.
    shard_size:  ``"5GB"``, ``"2GiB"``, or bytes: tensors beyond that size are split into several files and an index; a
                 GGUF into files of which the first stands for all.
    verify:      run source and target before the target gets its name, as `verify` does. Edits are taken as intended:
                 the source runs with them. Raises NotEquivalentError if the outputs differ. `inputs` can then be given
                 for any target.

    with_files:  also copy the files beside the source's weights into the target's folder: configuration, tokenizer,
                 chat templates, sentence-transformers modules. The copied config.json states the new type, and drops
                 the quantization settings of weights that are no longer quantized. Of a GGUF that is translated, what
                 its metadata gives of these; a folder as `target` gets them in any case.

    Returns what was written, what was lost, and what else a user should know.

    The target is written atomically: on any error it is as it was. Memory is constant in the size of the file.
    Raises LossError, UnsafeError, TargetExistsError, DamagedTensorError, MisfitError and other CkptconvErrors.
    """
    allowed, size = parse_allowed(allow_loss), parse_shard_size(shard_size)
    wanted, edits = choose_format(target, to_format, size), edits or Edits()
    words = option_words({
        "--from": from_format, "--to": to_format, "--force": force, "--dry-run": dry_run, "--verify": verify,
        "--with-files": with_files, "--bare": bare, "--meta": pair_words(metadata or {}), "--allow-loss": allowed,
        "--with-params": with_params, "--shard-size": shard_size,
        "-O": [f"{key}={text}" for key, text in (options or {}).items()], "--input": as_tuple(inputs),
    })  # fmt: skip
    words = ("convert", fspath(source), fspath(target), *words, *edits.words)
    order = Order(
        request=Request(source, arch_text(arch), settings, inputs, words, from_format), format=wanted,
        own=wanted.parse_options(options or {}), edits=edits, metadata=metadata or {}, bare=bare,
        with_params=with_params, verify=verify, shards=size is not None,
    )  # fmt: skip
    order.check()
    job = Job(
        order=order, target=target, allowed=allowed, shard_size=size, force=force, dry_run=dry_run,
        with_files=with_files, progress=progress,
    )  # fmt: skip
    with _open_source(source, target, from_format, progress) as opened, StepFiles(edits.steps) as files:
        return job.run(opened, files)


def _open_source(source: PathText, target: PathText, format: str | None, progress: Progress | None) -> Checkpoint:
    """Open the source. If it is missing but the target exists, the error's hint swaps them."""
    try:
        return open(source, format=format, progress=progress)
    except FileAccessError as error:
        if error.hint == CHECK_PATH and not os.path.lexists(source) and os.path.isfile(target):
            error.hint = (
                f"the source comes first: {shlex.join(['ckptconv', 'convert', fspath(target), fspath(source)])}"
            )
        raise
