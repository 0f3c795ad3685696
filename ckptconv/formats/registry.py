"""Which formats there are: the built-in ones, and those of plug-ins.

The built-in table is data. Plug-ins announce theirs under the entry-point group ``ckptconv.formats``, each entry a
`Format` or a sequence of them; they are loaded when one is asked for by name, or when no built-in format claims a file.
A plug-in that does not load is named and passed over.
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
    diffusers,
    flax,
    gguf,
    hdf5,
    mxnet,
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
"""Those in which other formats' files lie."""

BUILTIN: tuple[Format, ...] = (
    *torch.FORMATS, *ctranslate2.FORMATS, *safetensors.FORMATS, torch.DEEPSPEED, *onnx.FORMATS, *gguf.FORMATS,
    *npz.FORMATS, *hdf5.FORMATS, *tensorflow.FORMATS, *tfjs.FORMATS, *tflite.FORMATS, *openvino.FORMATS,
    *coreml.FORMATS, *paddle.FORMATS, *mxnet.FORMATS, *caffe.FORMATS, *flax.FORMATS, diffusers.DIFFUSERS,
    torch.TENSORDICT, npz.SKOPS, *ARCHIVES, npz.EQUINOX, npz.NPY, torch.JOBLIB, torch.PICKLE,
)  # fmt: skip


@cache
def plugins() -> tuple[tuple[Format, ...], tuple[PluginError, ...]]:
    """The formats of installed plug-ins, and an error for each that does not load."""
    from importlib.metadata import entry_points

    formats: list[Format] = []
    errors: list[PluginError] = []
    known = {one.name for one in BUILTIN}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            loaded = entry.load()
            found = (loaded,) if isinstance(loaded, Format) else tuple(loaded)
            if not all(isinstance(one, Format) for one in found):
                raise TypeError("it is not a Format")
            if taken := known.intersection(one.name for one in found):
                raise ValueError(f"there is a format {min(taken)!r} already")
        except (Exception, SystemExit) as error:  # whatever someone else's package raises, the others still work
            said = "it ends the process" if isinstance(error, SystemExit) else error
            errors.append(PluginError(f"the plug-in {entry.name!r} ({entry.value}) does not load: {said}"))
            continue
        formats += found
        known.update(one.name for one in found)
    return tuple(formats), tuple(errors)


def all_formats() -> tuple[Format, ...]:
    """Built-in formats, then those of plug-ins."""
    return (*BUILTIN, *plugins()[0])


def in_turn() -> Iterator[Format]:
    """The built-in formats, and only then, for those who go on asking, the plug-ins."""
    yield from BUILTIN
    yield from plugins()[0]


def by_name(name: str) -> Format:
    """The format of that name. Raises UsageError, with the nearest names."""
    for one in in_turn():
        if one.name == name:
            return one
    names = [one.name for one in all_formats()]
    suffix = f".{name.lower().lstrip('.')}"
    near = get_close_matches(name, names, n=1) or [one.name for one in all_formats() if suffix in one.suffixes]
    hint = f"did you mean {near[0]!r}?" if near else f"known formats: {', '.join(names)}"
    raise UsageError(f"there is no format {name!r}", hint=hint)


def by_suffix(path: Path) -> Format:
    """The format that a new file of this name gets: of several files only where it is an index. Raises UsageError."""
    for one in in_turn():
        if one.writer and not one.numbered and path.name.lower().endswith(one.suffixes):
            return one
    suffixes = dict.fromkeys(suffix for one in all_formats() if one.writer for suffix in one.suffixes)
    hint = f"use --to FORMAT, or one of the suffixes {' '.join(one for one in suffixes if one.count('.') == 1)}"
    if read := [repr(one.name) for one in all_formats() if path.name.lower().endswith(one.suffixes)]:
        raise UsageError(
            f"the format{'s' * (len(read) > 1)} {' and '.join(read)} can be read but not written", hint=hint
        )
    if near := get_close_matches(path.suffix.lower(), suffixes, n=1):
        hint = f"did you mean {path.with_suffix(near[0]).name!r}?"
    raise UsageError(f"no format is known for the name {path.name!r}", hint=hint)
