"""Sharded sets: several files of tensors, and an index that says which tensor is in which.

    NAME-00001-of-0000N.SUFFIX …    each a whole file of its own format
    NAME.SUFFIX.index.json          {"metadata": {"total_size": BYTES, …}, "weight_map": {TENSOR: FILE, …}}

A variant has its name in all of them: ``NAME.fp16-00001-of-0000N.SUFFIX``, ``NAME.SUFFIX.index.fp16.json``. A set is
given as its index, or as a folder with one index; a folder with a single file of weights is taken for that file. The
index may also be of one file that has no number, as mlx-lm writes it.

Refused: an index past 100 MB, no JSON object, a name that comes twice, a file that is no plain name in the index's own
folder, a shard that is missing, a tensor that is missing, elsewhere than the index says, or in two shards. Told: a
tensor that the index does not list, a shard that it does not name, a `total_size` that is wrong.

Source: huggingface_hub/serialization/_torch.py and _base.py; transformers/modeling_utils.py (`save_pretrained`,
`_get_resolved_checkpoint_files`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from ckptconv.core import strict_json
from ckptconv.core.metadata import is_too_deep
from ckptconv.core.record import KEY
from ckptconv.core.report import Finding, plural, quoted
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    FileAccessError,
    LimitError,
    UnsupportedError,
    UsageError,
    first_of,
    located,
)
from ckptconv.formats.shard_names import (
    ADAPTERS,
    ALONE,
    BINARIES,
    INDEX,
    INDEX_SUFFIX,
    PICKLED_COPIES,
    RANK,
    SHARD,
    SLICES,
    is_shard,
    plain_name,
    split_suffix,
    whole_set,
)
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_FILES, MAX_INDEX_BYTES, MAX_TENSORS
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckptconv.core.spelling import Json

_COPY_AGAIN = "copy the set again from where it came"

_OWN_KEYS = ("total_size", "total_parameters", KEY)
"""Keys of the index's metadata that say nothing of the model."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index as it was read: file by tensor, in its order, and what it says besides."""

    path: str
    weight_map: Mapping[str, str]
    metadata: Mapping[str, Json]

    @property
    def files(self) -> list[str]:
        """The shards that it names, sorted."""
        return sorted(set(self.weight_map.values()))

    @property
    def values(self) -> dict[str, Json]:
        """What its metadata says of the model, others' sets included."""
        return {key: value for key, value in self.metadata.items() if key not in _OWN_KEYS}

    @property
    def strings(self) -> dict[str, str] | None:
        """The string map of our record, where it has one (`ckptconv.core.record`)."""
        strings = self.metadata.get(KEY)
        if not isinstance(strings, dict) or not all(isinstance(text, str) for text in strings.values()):
            return None
        return {key: text for key, text in strings.items() if isinstance(text, str)}


def read_index(source: Source) -> Index:
    """Read and check an index. Raises CorruptFileError, LimitError, with its path."""
    known = source.parsed.get(Index)
    if isinstance(known, Index):
        return known
    with located(source.path):
        index = _parse(source)
    source.parsed[Index] = index
    return index


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
        raise _bad("its weight_map or its metadata is no object")
    if is_too_deep(metadata):
        raise _bad("its metadata is nested too deeply")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file or file in (".", "..") or any(mark in file for mark in "/\\\0"):
            raise CorruptFileError(
                f"the index says that {name!r} is in {file!r}, which is no file in its folder",
                hint="do not trust this checkpoint: it names files elsewhere",
            )
    if len(weight_map) > MAX_TENSORS or len(set(weight_map.values())) > MAX_FILES:
        raise LimitError("the index names too many tensors or files")
    return Index(source.path.name, weight_map, metadata)


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(f"the index is invalid: {what}", hint=_COPY_AGAIN)


def claims(source: Source | Folder, *, binaries: bool) -> bool:
    """Whether this is an index, or a folder with one, of pickled shards or else of safetensors ones.

    Raises UsageError on a folder with several sets in it, CorruptFileError on shards without an index.
    """
    if isinstance(source, Source):
        if not _is_index(source):
            return False
        folder = source.beside or Folder(source.path.parent)
        return _is_pickled(folder, source.path.name, source) is binaries
    found = _usual(_candidates(source))
    if len(found) > 1:
        _refuse_several(source, found)
    if not found and (shards := [name for name in source.names if is_shard(name) and not SLICES.fullmatch(name)]):
        if whole_set(source.names):
            return not binaries
        raise CorruptFileError(
            f"the folder has {plural(len(shards), 'shard')} and no index that says what is in them: "
            f"{quoted(shards, 6)}",
            path=source.path, hint="copy the .index.json file from where they came",
        )  # fmt: skip
    return bool(found) and _is_pickled(source, found[0]) is binaries


def _is_index(source: Source) -> bool:
    """Whether it is a JSON object that speaks of a weight_map; what is wrong with it is said when it is read."""
    if source.size > MAX_INDEX_BYTES:
        return source.path.name.endswith(INDEX_SUFFIX)
    text = bytes(source.read_at(0, source.size))
    return text.lstrip()[:1] == b"{" and b'"weight_map"' in text


def _candidates(folder: Folder) -> list[str]:
    """The files in it that stand for a whole checkpoint."""
    found = []
    for name in filter(INDEX.fullmatch, folder.names):
        with folder.glance(name) as source:
            if _is_index(source):
                found.append(name)
    whole = [name for name in folder.names if not is_shard(name)]
    alone = [*filter(ALONE.fullmatch, whole)]
    named = {file for name in found for file in _files_of(folder, name)} if alone else ()
    found += [name for name in alone if name not in named]
    return found or [name for name in whole if name == ADAPTERS] or [n for n in whole if n.endswith(".safetensors")]


def _files_of(folder: Folder, name: str) -> list[str]:
    """The files that an index names: mlx-lm writes one for a single file too."""
    with folder.glance(name) as source:
        try:
            return read_index(source).files
        except CkptconvError:  # told by the reader
            return []


def _usual(found: list[str]) -> list[str]:
    """The one that the hub's libraries load where they are not told: safetensors, and no pickle of the same weights."""
    for name in found:
        stem, _, rest = name.partition(".")
        pickled = f"{PICKLED_COPIES.get(stem)}."
        copies = [other for other in found if other.startswith(pickled) and ".safetensors" not in other]
        if rest in ("safetensors", "safetensors.index.json") and len(copies) == len(found) - 1:
            return [name]
    return found


def holds_one(folder: Folder) -> bool:
    """Whether a file in it stands for a whole checkpoint: an index, or one called as whole files are."""
    return bool(_candidates(folder))


def _refuse_several(folder: Folder, found: Sequence[str]) -> NoReturn:
    loose = not any(INDEX.fullmatch(name) or ALONE.fullmatch(name) for name in found)
    what = "safetensors files, and nothing says which is meant" if loose else "checkpoints"
    if all(map(RANK.fullmatch, found)):
        raise UnsupportedError(
            f"the folder holds the slices of {len(found)} processes (TensorRT-LLM, vLLM's sharded_state), and nothing "
            "says how they were cut", path=folder.path,
            hint=f"name the folder of the whole model, or one of them, such as {folder.path / found[0]}",
        )  # fmt: skip
    raise UsageError(
        f"the folder holds {len(found)} {what}: {quoted(found, 6)}", path=folder.path,
        hint=f"name one of them, such as {folder.path / found[0]!s}",
    )  # fmt: skip


def _is_pickled(folder: Folder, name: str, source: Source | None = None) -> bool:
    """Whether a file of weights, or the first shard of an index, is torch's: by its bytes, else by its name."""
    if INDEX.fullmatch(name) or source is not None:
        try:
            files = read_index(source or folder.open(name)).files
        except CkptconvError:
            files = []
        if not files:
            return any(suffix in name for suffix in BINARIES)
        name = files[0]
    try:
        with folder.glance(name) as first:
            start = bytes(first.read_at(0, min(9, first.size)))
    except CkptconvError:
        start = b""
    if start[4:] == b"\0\0\0\0{":  # behind the length of a safetensors header, one in 32 of which begins like a pickle
        return False
    return start.startswith((b"PK", b"\x80")) or (not start and name.endswith(BINARIES))


def find(source: Source | Folder, *, binaries: bool) -> tuple[Folder, Index | None, Source]:
    """The folder of a set, its index, and that index's file; or a file of weights that is alone in its folder.

    Raises UsageError where the folder holds several of this kind, or none.
    """
    if isinstance(source, Source):
        return Folder.around(source), read_index(source), source
    found = [name for name in _candidates(source) if _is_pickled(source, name) is binaries]
    if len(found) > 1:
        _refuse_several(source, found)
    if not found:
        raise UsageError("the folder has no index of shards", path=source.path, hint="name a file inside it")
    file = source.open(found[0])
    return source, read_index(file) if INDEX.fullmatch(found[0]) else None, file


def chosen(folder: Folder, file: Source) -> list[Finding]:
    """Which file of a folder is read, where others could be, or its name is none by which every library takes it for
    the model.
    """
    name = file.path.name
    if others := [other for other in _candidates(folder) if other != name]:
        message = f"{name!r} is read, as the hub's libraries do, and no other copy: {quoted(others)}"
        return [Finding("file", "info", name, message)]
    if ALONE.fullmatch(name) or name == ADAPTERS or INDEX.fullmatch(name):
        return []
    return [Finding("file", "info", name, f"{name!r} is read, the one safetensors file of this folder")]


def open_shards(folder: Folder, index: Index) -> dict[str, Source]:
    """Every shard that the index names, open. Raises CorruptFileError, naming all that are missing."""
    shards: dict[str, Source] = {}
    missing: list[str] = []
    for name in index.files:
        try:
            shards[name] = folder.open(name)
        except FileAccessError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            missing.append(name)
    if missing:
        raise CorruptFileError(
            f"{plural(len(missing), 'shard')} of {len(index.files)} missing: {quoted(missing, 6)}",
            path=folder.path / index.path, hint="copy what is missing from where the index came",
        )  # fmt: skip
    return shards


def cross_check(folder: Folder, index: Index, held: Mapping[str, Iterable[str]]) -> tuple[list[str], list[Finding]]:
    """Compare the index with the tensors that its shards hold, both ways.

    Gives all names in order: the index's own, unless that is sorted (then nobody kept an order in it, and the shards'
    counts). Raises CorruptFileError, listing every tensor that is missing, elsewhere, or there twice.
    """
    places: dict[str, str] = {}
    wrong: list[str] = []
    for file, names in held.items():
        for name in names:
            if name in places:
                wrong.append(f"{name!r} is in two shards, {places[name]!r} and {file!r}")
            places.setdefault(name, file)
    for name, file in index.weight_map.items():
        if name not in places:
            wrong.append(f"{name!r} should be in {file!r}, and no shard has it")
        elif places[name] != file:
            wrong.append(f"{name!r} should be in {file!r}, and is in {places[name]!r}")
    if wrong:
        raise CorruptFileError(
            f"the index and the shards contradict each other about {plural(len(wrong), 'tensor')}",
            path=folder.path / index.path, hint=_COPY_AGAIN, details=first_of(wrong),
        )  # fmt: skip
    unlisted = [name for name in places if name not in index.weight_map]
    findings = [
        Finding("unlisted-tensor", "warning", name, f"{name!r} is in {places[name]!r}, and the index does not list it")
        for name in unlisted
    ]
    listed = list(index.weight_map)
    in_shards = [name for name in places if name in index.weight_map]
    return [*(in_shards if listed == sorted(listed) else listed), *unlisted], [*findings, *_strays(folder, index)]


def _strays(folder: Folder, index: Index) -> list[Finding]:
    """Files that are named as if they were shards of this set, and are not in its index."""
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
    """A finding where the index's `total_size` is none of the sums that writers put there."""
    said, sums = index.metadata.get("total_size"), list(sums)
    if said is None or (isinstance(said, int | float) and not isinstance(said, bool) and said in sums):
        return []
    message = f"the index says total_size {said!r}, and its tensors have {sums[0]:,} bytes"
    return [Finding("total-size", "warning", "total_size", message, str(sums[0]), str(said))]


def merged(parts: Mapping[str, Mapping[str, Json]], findings: list[Finding]) -> dict[str, Json]:
    """The metadata of all shards as one; what they contradict each other about is kept by file, with a finding."""
    values: dict[str, Json] = {}
    for key in dict.fromkeys(key for part in parts.values() for key in part):
        said = {file: part[key] for file, part in parts.items() if key in part}
        first, *others = said.values()
        if all(other == first for other in others):
            values[key] = first
            continue
        values[key] = dict(said)
        findings.append(Finding("shard-metadata", "warning", key, f"the shards say different things for {key!r}"))
    return values
