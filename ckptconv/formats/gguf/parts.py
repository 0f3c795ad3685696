"""Reader of a model in several GGUF files, as ``llama-gguf-split`` and the gguf package write it.

    NAME-00001-of-0000N.gguf …    each is a complete GGUF file, whose metadata says which part it is:
    split.no                      number of the part, counted from 0
    split.count                   number of parts
    split.tensors.count           number of tensors in all parts

The first part holds the model's metadata. It stands for all parts, as in llama.cpp; so does a folder in which it is the
only model. Any other part is read as a file on its own.

Refused: parts that are missing or not GGUF, parts whose number or count differs from their name's or from the first
part's, duplicate tensors, a number of tensors other than the first part states.

Sources: llama.cpp's tools/gguf-split/gguf-split.cpp, src/llama.cpp (`llama_split_path`); gguf-py's gguf_writer.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, UsageError, located
from ckptconv.formats.gguf.layout import Header, read_header
from ckptconv.formats.gguf.layout import claims as is_gguf
from ckptconv.formats.gguf.read import assemble, tensors_of
from ckptconv.formats.sets import numbered
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_FILES
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.values import Typed

NAME = "gguf-split"
KEYS = ("split.no", "split.count", "split.tensors.count")


def claims(source: Source | Folder) -> bool:
    """Whether this is the first of several parts, or a folder with one model.

    Raises UsageError for a folder with several models.
    """
    if isinstance(source, Source):
        part = _parse_name(source.path.name)
        return part is not None and part.number == 1 and is_gguf(source) and _part_count(source) > 1
    models = _model_files(source)
    if len(models) > 1:
        shown = quoted(models, 6)
        raise UsageError(
            f"the folder holds {len(models)} models: {shown}", path=source.path,
            hint=f"name one of them, such as {source.path / models[0]!s}",
        )  # fmt: skip
    return bool(models)


def _model_files(folder: Folder) -> list[str]:
    """The files in a folder that stand for a whole model: first parts, and files that are not parts."""
    names = [name for name in folder.names if name.endswith(".gguf")]
    return [name for name in names if (part := _parse_name(name)) is None or part.number == 1]


def _parse_name(name: str) -> numbered.Part | None:
    part = numbered.parse(name)
    return part if part is not None and part.suffix == ".gguf" else None


def _part_count(source: Source) -> int:
    try:
        return _split_number(read_header(source), "split.count")
    except CkptconvError:  # the reader of a single file will report it
        return 0


def _split_number(header: Header, key: str) -> int:
    """The value of one of the ``split.`` keys; 0 if the header has none."""
    _, value = header.values.get(key, ("", 0))
    return value if isinstance(value, int) else 0


def read(source: Source | Folder) -> Checkpoint:
    """Open all parts. Reads their headers, but no tensors. Raises CorruptFileError, and what a single part raises."""
    if isinstance(source, Folder):
        folder, (name, *_) = source, _model_files(source) or [""]
        if not name:
            raise UsageError("the folder has no GGUF file", path=source.path, hint="name a file in it")
        first = folder.open(name)
    else:
        folder, first = Folder.around(source), source
    parts = _open_parts(folder, first)
    tensors = _all_tensors(parts, first)
    _, stated = parts[first.path.name].header.values.get("split.tensors.count", ("", len(tensors)))
    if stated != len(tensors):
        raise CorruptFileError(
            f"the parts hold {len(tensors):,} tensors, and the first says that there are {stated!r}", path=first.path,
            hint=COPY_ALL_AGAIN,
        )  # fmt: skip
    findings: list[Finding] = []
    return assemble(tensors, _merged_values(parts, findings), findings, format=NAME, file=folder)


class _Part(NamedTuple):
    file: Source
    header: Header


def _all_tensors(parts: Mapping[str, _Part], first: Source) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    part_of: dict[str, str] = {}
    for file_name, part in parts.items():
        for name, tensor in tensors_of(part.file, part.header).items():
            if name in tensors:
                raise CorruptFileError(
                    f"the tensor {name!r} is in two parts, {part_of[name]!r} and {file_name!r}", path=first.path,
                    hint=COPY_ALL_AGAIN,
                )  # fmt: skip
            tensors[name], part_of[name] = tensor, file_name
    return tensors


def _open_parts(folder: Folder, first: Source) -> dict[str, _Part]:
    """All parts in order, by file name, each checked against its name and the first part."""
    header = read_header(first)
    count = _split_number(header, "split.count")
    if count <= 1:
        return {first.path.name: _Part(first, header)}
    part = _parse_name(first.path.name)
    if part is None or part.count != count or part.number != 1 or count > MAX_FILES:
        raise CorruptFileError(
            f"it is part {_split_number(header, 'split.no') + 1} of {count}, which its name does not say",
            path=first.path, hint="give the files their names back: NAME-00001-of-0000N.gguf",
        )  # fmt: skip
    parts: dict[str, _Part] = {}
    for number, (name, file) in enumerate(_open_all(folder, part.siblings, first).items()):
        with located(file.path):
            header = read_header(file)
        stated = _split_number(header, "split.no"), _split_number(header, "split.count")
        if stated != (number, count):
            raise CorruptFileError(
                f"it says that it is part {stated[0] + 1} of {stated[1]}, and its name that it is part {number + 1} of "
                f"{count}", path=file.path, hint=COPY_ALL_AGAIN,
            )  # fmt: skip
        parts[name] = _Part(file, header)
    return parts


def _open_all(folder: Folder, names: Sequence[str], first: Source) -> dict[str, Source]:
    opened, missing = folder.open_all(names)
    if missing:
        shown = quoted(missing, 6)
        raise CorruptFileError(
            f"{len(missing)} of {len(names)} parts missing: {shown}", path=first.path,
            hint="copy the whole set into this folder; --from gguf takes this part alone",
        )  # fmt: skip
    return opened


def _merged_values(parts: Mapping[str, _Part], findings: list[Finding]) -> dict[str, Typed]:
    """The metadata of all parts, without the ``split.`` keys; where parts differ, the first one counts."""
    values: dict[str, Typed] = {}
    for name, part in parts.items():
        for key, value in part.header.values.items():
            if key in KEYS:
                continue
            if values.setdefault(key, value) != value:
                message = f"{name!r} says something else for {key!r} than the first part, which counts"
                findings.append(Finding("shard-metadata", "warning", key, message))
    return values
