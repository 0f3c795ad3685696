"""Writer of a ``.keras`` archive: the weights as the format `hdf5` writes them, beside Keras' own documents.

Keras builds the model from its configuration, and finds the weights by their paths. So a checkpoint needs both JSON
documents and Keras' paths, as one has that was read from such an archive, even by way of other formats. Whether the
weights fit the configuration is not checked. Entries are stored uncompressed, aligned to 64 bytes, without times.

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
from ckptconv.formats.hdf5.writer.reference import open_with_h5py
from ckptconv.formats.hdf5.writer.write import plan_file
from ckptconv.io.checksum import crc32, joined_crc32
from ckptconv.io.limits import MAX_CONFIG, MAX_HDF5_TEXT
from ckptconv.io.stream import Streamer
from ckptconv.io.zip_writing import directory_size, end_of, plan_entries, write_headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.hdf5.writer.write import PlannedFile
    from ckptconv.io.stream import Sums
    from ckptconv.io.target import Target
    from ckptconv.io.zip_writing import Planned

_VARIABLES = "vars"
"""The group of a layer's variables."""


def lacking(checkpoint: Checkpoint) -> str:
    """Says why the checkpoint can't be a ``.keras`` file: it lacks a document, or Keras' paths. "" if it can."""
    metadata = checkpoint.metadata
    if missing := [name for name in (CONFIG, ABOUT) if _exact_json(metadata.get(name)) is None]:
        return f"the source has no {missing[0]} of Keras', which says what the model is"
    for name in checkpoint:
        if name.split("/")[-2:-1] != [_VARIABLES]:
            return f"{name!r} is not a path of Keras weights, such as 'layers/dense/{_VARIABLES}/0'"
    return ""


def _exact_json(value: MetaNode) -> bytes | None:
    """A dict as JSON; None for another value, or one that JSON does not give back as it was."""
    if type(value) is not dict:
        return None
    try:
        text = json.dumps(value).encode("ascii")
        return text if same(strict_json.document(text, CONFIG, hint=""), value) else None
    except (TypeError, ValueError, RecursionError, CkptconvError):
        return None


def _documents_and_assets(metadata: Mapping[MetaNode, MetaNode]) -> dict[str, bytes]:
    """The contents of the entries beside the weights, by name. Raises LimitError."""
    entries = {name: _exact_json(metadata[name]) or b"" for name in (ABOUT, CONFIG)}
    if max(map(len, entries.values())) > MAX_CONFIG:
        raise LimitError(f"the configuration would have more than {MAX_CONFIG:,} bytes")
    left = MAX_HDF5_TEXT
    for key, value in metadata.items():
        if isinstance(key, str) and _is_asset(key) and type(value) is bytes and len(value) <= left:
            entries[key] = value
            left -= len(value)
    return entries


def _is_asset(key: str) -> bool:
    """Whether the key is a path within the folder of assets."""
    parts = key.split("/")
    inside = key.startswith(ASSETS) and all(part not in ("", ".", "..") and "\\" not in part for part in parts)
    return inside and is_utf8(key) and "\0" not in key


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint.

    Raises UnsupportedError if it lacks what Keras needs, LimitError, DamagedTensorError, RejectedOutputError.
    """
    if why := lacking(checkpoint):
        raise UnsupportedError(f"no keras file can be made: {why}", hint="a .weights.h5 has the weights alone")
    others = _documents_and_assets(checkpoint.metadata)
    planned = plan_file(checkpoint, others, plain=options.plain)
    sizes = {name: len(data) for name, data in others.items()} | {WEIGHTS: planned.draft.size}
    entries = plan_entries(list(sizes.items()))
    weights = entries[-1]
    target.reserve(end_of(entries) + directory_size(entries))
    jobs = [replace(job, offset=job.offset + weights.data) for job in planned.jobs]
    sums = Streamer(target, crc=True, content=planned.plan is not None, progress=options.progress).run(jobs)
    digest = planned.add_digest(checkpoint, sums)
    target.write_at(weights.data, bytes(planned.draft.head))
    crcs = {weights.name: _weights_crc(planned, sums)}
    for entry, data in zip(entries, others.values(), strict=False):
        target.write_at(entry.data, data)
        crcs[entry.name] = crc32(data)
    size = write_headers(target, entries, crcs)
    _check(target, entries, planned.sample_paths())
    return WriteResult(size, digest)


def _weights_crc(planned: PlannedFile, sums: Iterable[Sums]) -> int:
    """The CRC-32 of the file of weights, joined from those of its parts and the zeros between them."""
    crc, at = crc32(bytes(planned.draft.head)), len(planned.draft.head)
    for job, tensor_sums in sorted(zip(planned.jobs, sums, strict=True), key=lambda pair: pair[0].offset):
        size = job.tensor.info.nbytes
        if size:
            gap = job.offset - at
            crc = joined_crc32(joined_crc32(crc, crc32(bytes(gap)), gap), tensor_sums.crc32, size)
            at = job.offset + size
    return crc


def _check(target: Target, entries: Iterable[Planned], datasets: Iterable[str]) -> None:
    """Let zipfile, with which Keras opens archives, list the entries, and h5py open the weights, if it is installed."""
    *_, weights = entries
    try:
        with ZipFile(target.readable_path) as archive:
            archive.getinfo(WEIGHTS)
    except (BadZipFile, KeyError) as error:
        raise RejectedOutputError(f"zipfile refuses what was written: {error}") from error
    open_with_h5py(target.readable_path, datasets, weights.data, weights.size)
