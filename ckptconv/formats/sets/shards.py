"""Sharded sets: several files of tensors, and an index that says which tensor is in which file.

    NAME-00001-of-0000N.SUFFIX …    each a complete file of its own format
    NAME.SUFFIX.index.json          {"metadata": {"total_size": BYTES, …}, "weight_map": {TENSOR: FILE, …}}

A variant's name is in all file names: ``NAME.fp16-00001-of-0000N.SUFFIX``, ``NAME.SUFFIX.index.fp16.json``.
`folder_file` finds the index of a folder.

Refused: an index larger than 100 MB or that is not a JSON object, a name that occurs twice, a file name that leads out
of the index's own folder, a missing shard, and a tensor that is missing, in another shard than the index says, or in
two shards. Reported: a tensor that the index does not list, a shard that it does not name, a wrong `total_size`.

Source: huggingface_hub/serialization/_torch.py and _base.py; transformers/modeling_utils.py (`save_pretrained`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.metadata import is_too_deep
from ckptconv.core.record import KEY
from ckptconv.core.report import Finding
from ckptconv.core.text import plural, quoted
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, LimitError, first_of, located
from ckptconv.formats.sets.shard_names import SHARD, plain_name, split_suffix
from ckptconv.io.limits import MAX_FILES, MAX_INDEX_BYTES, MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.io.folder import Folder
    from ckptconv.io.source import Source


_OWN_KEYS = ("total_size", "total_parameters", KEY)
"""Keys of the index's metadata that do not describe the model."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index: the file of each tensor, in the index's order, and the index's metadata."""

    path: str
    weight_map: Mapping[str, str]
    metadata: Mapping[str, Json]

    @property
    def files(self) -> list[str]:
        """The shards that the index names, sorted."""
        return sorted(set(self.weight_map.values()))

    @property
    def values(self) -> dict[str, Json]:
        """The metadata that describes the model, which other writers add too."""
        return {key: value for key, value in self.metadata.items() if key not in _OWN_KEYS}

    @property
    def strings(self) -> dict[str, str] | None:
        """The string map of our record (`ckptconv.core.record`); None if there is none."""
        strings = self.metadata.get(KEY)
        if not isinstance(strings, dict) or not all(isinstance(text, str) for text in strings.values()):
            return None
        return {key: text for key, text in strings.items() if isinstance(text, str)}


def read_index(source: Source) -> Index:
    """Read and check an index. Raises CorruptFileError and LimitError with its path."""
    with located(source.path):
        return source.once(Index, lambda: _parse(source))


def _parse(source: Source) -> Index:
    try:
        document = strict_json.loads(source.read_all(MAX_INDEX_BYTES))
    except ValueError as error:
        raise _bad(str(error)) from error
    if not isinstance(document, dict) or "weight_map" not in document:
        raise _bad("it has no weight_map")
    weight_map, metadata = document["weight_map"], document.get("metadata", {})
    metadata = {} if metadata is None else metadata
    if not isinstance(weight_map, dict) or not isinstance(metadata, dict):
        raise _bad("its weight_map or its metadata is not an object")
    if is_too_deep(metadata):
        raise _bad("its metadata is nested too deeply")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file or file in (".", "..") or any(mark in file for mark in "/\\\0"):
            raise CorruptFileError(
                f"the index says that {name!r} is in {file!r}, which is not a file in its folder",
                hint="do not trust this checkpoint: it names files elsewhere",
            )
    if len(weight_map) > MAX_TENSORS or len(set(weight_map.values())) > MAX_FILES:
        raise LimitError("the index names too many tensors or files")
    return Index(source.path.name, weight_map, metadata)


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(f"the index is invalid: {what}", hint=COPY_ALL_AGAIN)


def open_shards(folder: Folder, index: Index) -> dict[str, Source]:
    """Open all shards that the index names. Raises CorruptFileError, which lists all that are missing."""
    shards, missing = folder.open_all(index.files)
    if missing:
        raise CorruptFileError(
            f"{plural(len(missing), 'shard')} of {len(index.files)} missing: {quoted(missing, 6)}",
            path=folder.path / index.path, hint="copy what is missing from where the index came",
        )  # fmt: skip
    return shards


def cross_check(folder: Folder, index: Index, held: Mapping[str, Iterable[str]]) -> tuple[list[str], list[Finding]]:
    """Compare the index with the names of the tensors that each shard holds (`held`, by file).

    Returns all names in order, and findings. The order is the index's, unless the index is sorted by name, which says
    nothing: then it is the order in the shards. Raises CorruptFileError, which lists every tensor that is missing, in
    another shard, or in two.
    """
    file_of: dict[str, str] = {}
    wrong: list[str] = []
    for file, names in held.items():
        for name in names:
            if name in file_of:
                wrong.append(f"{name!r} is in two shards, {file_of[name]!r} and {file!r}")
            file_of.setdefault(name, file)
    for name, file in index.weight_map.items():
        if name not in file_of:
            wrong.append(f"{name!r} should be in {file!r}, and no shard has it")
        elif file_of[name] != file:
            wrong.append(f"{name!r} should be in {file!r}, and is in {file_of[name]!r}")
    if wrong:
        raise CorruptFileError(
            f"the index and the shards contradict each other about {plural(len(wrong), 'tensor')}",
            path=folder.path / index.path, hint=COPY_ALL_AGAIN, details=first_of(wrong),
        )  # fmt: skip
    unlisted = [name for name in file_of if name not in index.weight_map]
    findings = [
        Finding("unlisted-tensor", "warning", name, f"{name!r} is in {file_of[name]!r}, and the index does not list it")
        for name in unlisted
    ]
    listed = list(index.weight_map)
    in_shards = [name for name in file_of if name in index.weight_map]
    ordered = in_shards if listed == sorted(listed) else listed
    return [*ordered, *unlisted], [*findings, *_stray_shard_findings(folder, index)]


def _stray_shard_findings(folder: Folder, index: Index) -> list[Finding]:
    """Findings for files with the names of shards of this set that are not in its index."""
    files = set(index.files)
    ours = {(shard["stem"], shard["suffix"]) for shard in map(SHARD.fullmatch, files) if shard}
    if plain := plain_name(index.path):
        stem, suffix = split_suffix(plain)
        ours.add((stem, suffix))
    return [
        Finding("stray-shard", "warning", name, f"{name!r} is not in the index {index.path!r}, and is passed over")
        for name in folder.names
        if name not in files and (shard := SHARD.fullmatch(name)) and (shard["stem"], shard["suffix"]) in ours
    ]


def check_total(index: Index, sums: Iterable[int]) -> list[Finding]:
    """A finding if the index's `total_size` is none of the sums that writers put there."""
    stated, sums = index.metadata.get("total_size"), list(sums)
    if stated is None or (isinstance(stated, int | float) and not isinstance(stated, bool) and stated in sums):
        return []
    message = f"the index says total_size {stated!r}, and its tensors have {sums[0]:,} bytes"
    return [Finding("total-size", "warning", "total_size", message, str(sums[0]), str(stated))]


def merge_metadata(parts: Mapping[str, Mapping[str, Json]], findings: list[Finding]) -> dict[str, Json]:
    """Merge the metadata of all shards (`parts`, by file). Values that contradict each other become a dict by file, and
    add a finding to `findings`.
    """
    merged: dict[str, Json] = {}
    for key in dict.fromkeys(key for part in parts.values() for key in part):
        by_file = {file: part[key] for file, part in parts.items() if key in part}
        first, *others = by_file.values()
        if all(value == first for value in others):
            merged[key] = first
            continue
        merged[key] = dict(by_file)
        findings.append(Finding("shard-metadata", "warning", key, f"the shards say different things for {key!r}"))
    return merged
