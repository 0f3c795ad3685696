"""Converting a checkpoint into another file."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from dataclasses import replace
from os import fspath
from typing import TYPE_CHECKING

from ckptconv.api.converting.consent import agreed, refuse, refuse_dependents
from ckptconv.api.converting.conversion import Conversion, completed, foreseen, planned, stored_tensors
from ckptconv.api.converting.destination import choose_format, settle, size_of_shards
from ckptconv.api.converting.order import Order
from ckptconv.api.converting.prepare import prepare, without_extras
from ckptconv.api.editing.edits import Edits
from ckptconv.api.editing.lora import Adapters
from ckptconv.api.open import open
from ckptconv.api.request import Request, pair_words, several, words_of
from ckptconv.errors import FileAccessError, NotEquivalentError, located
from ckptconv.formats import registry
from ckptconv.formats.base import WriteOptions
from ckptconv.formats.targets import preflight
from ckptconv.io.source import CHECK_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ckptconv.api.converting.companions import Companions
    from ckptconv.api.converting.destination import Destination
    from ckptconv.api.converting.prepare import Prepared
    from ckptconv.api.converting.verified import Verifier
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.progress import Progress
    from ckptconv.edits.ggml.processes import Quantizing
    from ckptconv.formats.base import Format, WriteResult
    from ckptconv.io.target import Target


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
    arch: str | None = None,
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
                 adapter that is translated to llama.cpp's format, the base's config.json or its folder.
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
                 the quantization settings of weights that are no longer quantized.

    Returns what was written, what of it was lost, and what else a person should know.

    The target is written atomically: on any error it is as it was. Memory is constant in the size of the file.
    Raises LossError, UnsafeError, TargetExistsError, DamagedTensorError, MisfitError and other CkptconvErrors.
    """
    allowed, size = agreed(allow_loss), size_of_shards(shard_size)
    wanted = choose_format(target, to_format, size)
    edits = edits or Edits()
    words = words_of({
        "--from": from_format, "--to": to_format, "--force": force, "--dry-run": dry_run, "--verify": verify,
        "--with-files": with_files, "--bare": bare, "--meta": pair_words(metadata or {}), "--allow-loss": allowed,
        "--with-params": with_params, "--shard-size": shard_size,
        "-O": [f"{key}={text}" for key, text in (options or {}).items()], "--input": several(inputs),
    })  # fmt: skip
    words = ("convert", fspath(source), fspath(target), *words, *edits.words)
    request = Request(source, arch, settings, inputs, words, from_format)
    order = Order(
        request=request, format=wanted, own=wanted.parse_options(options or {}), edits=edits,
        metadata=metadata or {}, bare=bare, with_params=with_params, verify=verify, shards=size is not None,
    )  # fmt: skip
    order.check()
    with _source(source, target, from_format, progress) as opened, Adapters(order.edits.steps) as adapters:
        made = prepare(order, opened, adapters)
        files = _companions(source, order, opened, made) if with_files else None
        if files is not None:
            made = replace(made, checkpoint=files.left_to(made.checkpoint))
        place = settle(wanted, target, made.checkpoint, size, plain=made.plain)
        result = foreseen(order, made, place, files)
        if made.checkpoint.extras and not place.format.holds.extras:
            made = without_extras(made)
        if files is not None:
            files.check(place.path, replace=force or dry_run)
        if not dry_run:
            refuse(result.losses, allowed, source, bare=bare)
            refuse_dependents(made.edited, preflight.losses(made.edited, place.format), source)
            place.check_source(source, opened)
            file = place.open(replace=force)
        with (
            _verifier(request, made.checkpoint, place.format) if verify else nullcontext() as verifier,
            _quantizing(made.checkpoint) if made.is_edited else nullcontext(),
        ):
            if dry_run:
                return planned(result, made, place, progress)
            with located(source), file:
                written = _written(made, place, file, order.own, progress)
                result = completed(result, made, written, allowed)
                opened.check_unchanged()
                adapters.check_unchanged()
                if files is not None:
                    files.write(file)
                return _committed(result, file, written, verifier)


def _source(source: PathText, target: PathText, format: str | None, progress: Progress | None) -> Checkpoint:
    """The open source. If it is missing but the target exists, they may have been swapped, and the error says so."""
    try:
        return open(source, format=format, progress=progress)
    except FileAccessError as error:
        if error.hint == CHECK_PATH and not os.path.lexists(source) and os.path.isfile(target):
            error.hint = (
                f"the source comes first: {shlex.join(['ckptconv', 'convert', fspath(target), fspath(source)])}"
            )
        raise


def _companions(source: PathText, order: Order, opened: Checkpoint, made: Prepared) -> Companions:
    from ckptconv.api.converting.companions import companions_of  # few ask for it

    return companions_of(source, order.edits, opened, made.checkpoint)


def _verifier(request: Request, checkpoint: Checkpoint, wanted: Format) -> Verifier:
    from ckptconv.api.converting.verified import Verifier

    return Verifier(request, checkpoint, wanted)


def _quantizing(checkpoint: Checkpoint) -> Quantizing:
    from ckptconv.edits.ggml.processes import Quantizing

    return Quantizing(stored_tensors(checkpoint).values())


def _written(made: Prepared, place: Destination, file: Target, own: object, progress: Progress | None) -> WriteResult:
    how = WriteOptions(
        plain=made.plain, progress=progress, own=own, graph=made.graph, write_as=_write_as(progress),
        shard_size=place.shard_size,
    )  # fmt: skip
    return place.format.write(made.checkpoint, file, how)


def _committed(result: Conversion, target: Target, written: WriteResult, verifier: Verifier | None) -> Conversion:
    """Give the target its name, after verifying it if that was asked for."""
    if verifier is None:
        target.commit()
        return result
    with verifier.verified(target, written) as found:
        result = replace(result, verification=found)
        if not found.equivalent:
            errors = [f"{finding.code}: {finding.message}" for finding in found.findings]
            raise NotEquivalentError(result, path=target.path, details=errors)
        target.commit()
    return result


def _write_as(progress: Progress | None) -> Callable[[str, Checkpoint, Target], WriteResult]:
    """How one format has a file in another format written beside its own."""

    def write(name: str, checkpoint: Checkpoint, target: Target) -> WriteResult:
        return registry.by_name(name).write(checkpoint, target, WriteOptions(progress=progress))

    return write
