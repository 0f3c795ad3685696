"""Writer of a ``.keras`` archive: the weights as the format `hdf5` writes them, stored beside Keras' own documents.

What a model is, Keras takes from its configuration alone, and the weights by their path. So a checkpoint needs both
documents and Keras' paths, as one has that was read of such an archive, whatever it has been since. Whether the weights
fit the configuration is Keras' to say. Entries are stored, on boundaries of 64 bytes, without times.

Source: keras/src/saving/saving_lib.py (`_save_model_to_fileobj`, `H5IOStore`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from ckptconv.core import strict_json
from ckptconv.core.spelling import is_utf8, same
from ckptconv.errors import CkptconvError, LimitError, RejectedOutputError, UnsupportedError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.hdf5.archive import ABOUT, ASSETS, CONFIG, WEIGHTS
from ckptconv.formats.hdf5.reference import open_with_h5py
from ckptconv.formats.hdf5.write import drafted
from ckptconv.io.checksum import crc32, joined_crc32
from ckptconv.io.limits import MAX_CONFIG, MAX_HDF5_TEXT
from ckptconv.io.stream import Streamer
from ckptconv.io.zip_writing import directory_size, end_of, plan_entries, write_headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.hdf5.write import Drafted
    from ckptconv.io.stream import Sums
    from ckptconv.io.target import Target
    from ckptconv.io.zip_writing import Planned

_VARIABLES = "vars"
"""The group that a layer's variables are in."""


def lacking(checkpoint: Checkpoint) -> str:
    """What of Keras' the checkpoint lacks: a configuration, paths of weights."""
    metadata = checkpoint.metadata
    if missing := [name for name in (CONFIG, ABOUT) if _document(metadata.get(name)) is None]:
        return f"the source has no {missing[0]} of Keras', which says what the model is"
    for name in checkpoint:
        if name.split("/")[-2:-1] != [_VARIABLES]:
            return f"{name!r} is no path of Keras' weights, such as 'layers/dense/{_VARIABLES}/0'"
    return ""


def _document(value: MetaNode) -> bytes | None:
    """A configuration as JSON; None where it is none, or where JSON does not give it back as it was."""
    if type(value) is not dict:
        return None
    try:
        text = json.dumps(value).encode("ascii")
        return text if same(strict_json.document(text, CONFIG, hint=""), value) else None
    except (TypeError, ValueError, RecursionError, CkptconvError):
        return None


def _entries(metadata: Mapping[MetaNode, MetaNode]) -> dict[str, bytes]:
    """What stands beside the weights, by name. Raises LimitError."""
    found = {name: _document(metadata[name]) or b"" for name in (ABOUT, CONFIG)}
    if max(map(len, found.values())) > MAX_CONFIG:
        raise LimitError(f"the configuration would have more than {MAX_CONFIG:,} bytes")
    left = MAX_HDF5_TEXT
    for key, value in metadata.items():
        if isinstance(key, str) and _is_asset(key) and type(value) is bytes and len(value) <= left:
            found[key] = value
            left -= len(value)
    return found


def _is_asset(key: str) -> bool:
    """Whether it is the path of a file in the folder of assets, and stays in it."""
    parts = key.split("/")
    inside = key.startswith(ASSETS) and all(part not in ("", ".", "..") and "\\" not in part for part in parts)
    return inside and is_utf8(key) and "\0" not in key


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises UnsupportedError where it lacks what makes it Keras', LimitError,
    DamagedTensorError, RejectedOutputError.
    """
    if what := lacking(checkpoint):
        raise UnsupportedError(f"no keras file can be made: {what}", hint="a .weights.h5 has the weights alone")
    beside = _entries(checkpoint.metadata)
    made = drafted(checkpoint, beside, plain=options.plain)
    sizes = {name: len(data) for name, data in beside.items()} | {WEIGHTS: made.draft.size}
    entries = plan_entries(list(sizes.items()))
    weights = entries[-1]
    target.reserve(end_of(entries) + directory_size(entries))
    jobs = [replace(job, offset=job.offset + weights.data) for job in made.jobs]
    sums = Streamer(target, crc=True, content=made.plan is not None, progress=options.progress).run(jobs)
    digest = made.digest(checkpoint, sums)
    target.write_at(weights.data, bytes(made.draft.head))
    crcs = {weights.name: _crc_of(made, sums)}
    for entry, data in zip(entries, beside.values(), strict=False):
        target.write_at(entry.data, data)
        crcs[entry.name] = crc32(data)
    size = write_headers(target, entries, crcs)
    _check(target, entries, made.one_of_each())
    return WriteResult(size, digest)


def _crc_of(made: Drafted, sums: Iterable[Sums]) -> int:
    """The CRC-32 of the whole file of weights, of those of its parts and the zeros between them."""
    found, at = crc32(bytes(made.draft.head)), len(made.draft.head)
    for job, one in sorted(zip(made.jobs, sums, strict=True), key=lambda pair: pair[0].offset):
        size = job.tensor.info.nbytes
        if size:
            gap = job.offset - at
            found = joined_crc32(joined_crc32(found, crc32(bytes(gap)), gap), one.crc32, size)
            at = job.offset + size
    return found


def _check(target: Target, entries: Iterable[Planned], datasets: Iterable[str]) -> None:
    """Let zipfile, which Keras opens archives with, list the entries, and h5py open the weights, where it is there."""
    *_, weights = entries
    try:
        with ZipFile(target.readable_path) as archive:
            archive.getinfo(WEIGHTS)
    except (BadZipFile, KeyError) as error:
        raise RejectedOutputError(f"zipfile refuses what was written: {error}") from error
    open_with_h5py(target.readable_path, datasets, weights.data, weights.size)
