"""Which formats there are: the built-in ones, and those of plug-ins.

The built-in table is data. A plug-in registers a `Format`, or a sequence of them, under the entry-point group
``ckptconv.formats``. Plug-ins are loaded only when a format is asked for by name that is not built in, or when no
built-in format claims a file. One that fails to load is reported and skipped.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from ckptconv.errors import PluginError, UsageError
from ckptconv.formats import (
    archive,
    caffe,
    coreml,
    ctranslate2,
    darknet,
    diffusers,
    flax,
    gguf,
    hdf5,
    mindspore,
    mlc,
    mxnet,
    ncnn,
    npz,
    onnx,
    openvino,
    paddle,
    safetensors,
    tensorflow,
    tfjs,
    tflite,
    torch,
)
from ckptconv.formats.base import Format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP = "ckptconv.formats"

ARCHIVES: tuple[Format, ...] = (archive.NEMO, torch.STABLE_BASELINES3, archive.ARCHIVE)
"""Formats whose files contain files in other formats."""

BUILTIN: tuple[Format, ...] = (
    *torch.FORMATS, *ctranslate2.FORMATS, *safetensors.FORMATS, torch.DEEPSPEED, *onnx.FORMATS, *gguf.FORMATS,
    *npz.FORMATS, *hdf5.FORMATS, *tensorflow.FORMATS, *tfjs.FORMATS, *tflite.FORMATS, *openvino.FORMATS,
    *coreml.FORMATS, *paddle.FORMATS, *mxnet.FORMATS, *mindspore.FORMATS, *mlc.FORMATS, *darknet.FORMATS,
    *ncnn.FORMATS, *caffe.FORMATS, *flax.FORMATS, diffusers.DIFFUSERS, torch.TENSORDICT, npz.SKOPS, *ARCHIVES,
    npz.EQUINOX, npz.NPY, torch.JOBLIB, torch.PICKLE,
)  # fmt: skip


@cache
def plugins() -> tuple[tuple[Format, ...], tuple[PluginError, ...]]:
    """The formats of installed plug-ins, and an error for each plug-in that does not load."""
    from importlib.metadata import entry_points

    formats: list[Format] = []
    errors: list[PluginError] = []
    known = {kind.name for kind in BUILTIN}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            loaded = entry.load()
            kinds = (loaded,) if isinstance(loaded, Format) else tuple(loaded)
            if not all(isinstance(kind, Format) for kind in kinds):
                raise TypeError("it is not a Format")
            if duplicates := known.intersection(kind.name for kind in kinds):
                raise ValueError(f"there is a format {min(duplicates)!r} already")
        except (Exception, SystemExit) as error:  # whatever one plug-in raises, the others must still work
            reason = "it ends the process" if isinstance(error, SystemExit) else error
            errors.append(PluginError(f"the plug-in {entry.name!r} ({entry.value}) does not load: {reason}"))
            continue
        formats += kinds
        known.update(kind.name for kind in kinds)
    return tuple(formats), tuple(errors)


def all_formats() -> tuple[Format, ...]:
    """Built-in formats, then those of plug-ins, which this loads."""
    return (*BUILTIN, *plugins()[0])


def iter_formats() -> Iterator[Format]:
    """Built-in formats, then those of plug-ins, which are loaded only if the iteration gets that far."""
    yield from BUILTIN
    yield from plugins()[0]


def by_name(name: str) -> Format:
    """The format of that name. Raises UsageError, which suggests the nearest name."""
    for kind in iter_formats():
        if kind.name == name:
            return kind
    names = [kind.name for kind in all_formats()]
    suffix = f".{name.lower().lstrip('.')}"
    near = get_close_matches(name, names, n=1) or [kind.name for kind in all_formats() if suffix in kind.suffixes]
    hint = f"did you mean {near[0]!r}?" if near else f"known formats: {', '.join(names)}"
    raise UsageError(f"there is no format {name!r}", hint=hint)


def by_suffix(path: Path) -> Format:
    """The format in which a new file of this name is written; never a numbered set. Raises UsageError."""
    name = path.name.lower()
    for kind in iter_formats():
        if kind.writer and not kind.numbered and name.endswith(kind.suffixes):
            return kind
    suffixes = dict.fromkeys(suffix for kind in all_formats() if kind.writer for suffix in kind.suffixes)
    hint = (
        f"use --to FORMAT, or one of the suffixes {' '.join(suffix for suffix in suffixes if suffix.count('.') == 1)}"
    )
    if read_only := [repr(kind.name) for kind in all_formats() if name.endswith(kind.suffixes)]:
        raise UsageError(
            f"the format{'s' * (len(read_only) > 1)} {' and '.join(read_only)} can be read but not written", hint=hint
        )
    if near := get_close_matches(path.suffix.lower(), suffixes, n=1):
        hint = f"did you mean {path.with_suffix(near[0]).name!r}?"
    raise UsageError(f"no format is known for the name {path.name!r}", hint=hint)
