"""A model in several GGUF files, as ``llama-gguf-split`` and the gguf package write it, read as one checkpoint.

    NAME-00001-of-0000N.gguf …    each a whole GGUF file, whose own metadata says which part it is:
    split.no                      number of the part, from 0 on
    split.count                   number of parts
    split.tensors.count           number of tensors in all parts

The first part has the model's metadata, and stands for all of them, as it does for llama.cpp; so does a folder in which
it is the only model. Any other part is read as the file that it is.

Refused: parts that are missing or no GGUF, that say another number or count than their name and the first one do,
tensors that come twice, and another number of tensors than the first part says.

Sources: llama.cpp's tools/gguf-split/gguf-split.cpp, src/llama.cpp (`llama_split_path`); gguf-py's gguf_writer.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from collections.abc import Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.values import Typed

NAME = "gguf-split"
KEYS = ("split.no", "split.count", "split.tensors.count")


def claims(source: Source | Folder) -> bool:
    """Whether this is the first of several parts, or a folder with one model. UsageError where it has several."""
    if isinstance(source, Source):
        found = _part(source.path.name)
        return found is not None and found.number == 1 and is_gguf(source) and _count(source) > 1
    found_models = _models(source)
    if len(found_models) > 1:
        shown = quoted(found_models, 6)
        raise UsageError(
            f"the folder holds {len(found_models)} models: {shown}", path=source.path,
            hint=f"name one of them, such as {source.path / found_models[0]!s}",
        )  # fmt: skip
    return bool(found_models)


def _models(folder: Folder) -> list[str]:
    """The files in a folder that stand for a whole model."""
    names = [name for name in folder.names if name.endswith(".gguf")]
    return [name for name in names if (part := _part(name)) is None or part.number == 1]


def _part(name: str) -> numbered.Part | None:
    part = numbered.parse(name)
    return part if part is not None and part.suffix == ".gguf" else None


def _count(source: Source) -> int:
    try:
        return _said(read_header(source), "split.count")
    except CkptconvError:  # told by the reader of a single file
        return 0


def _said(header: Header, key: str) -> int:
    _, value = header.values.get(key, ("", 0))
    return value if isinstance(value, int) else 0


def read(source: Source | Folder) -> Checkpoint:
    """Open all parts: their headers; no tensor is read. Raises CorruptFileError, and what one part alone raises."""
    if isinstance(source, Folder):
        folder, (name, *_) = source, _models(source) or [""]
        if not name:
            raise UsageError("the folder has no GGUF file", path=source.path, hint="name a file in it")
        first = folder.open(name)
    else:
        folder, first = Folder.around(source), source
    headers = _headers(folder, first)
    tensors: dict[str, LazyTensor] = {}
    places: dict[str, str] = {}
    for file, (part, header) in headers.items():
        for name, tensor in tensors_of(part, header).items():
            if name in tensors:
                raise CorruptFileError(
                    f"the tensor {name!r} is in two parts, {places[name]!r} and {file!r}", path=first.path,
                    hint=COPY_ALL_AGAIN,
                )  # fmt: skip
            tensors[name], places[name] = tensor, file
    said = headers[first.path.name][1].values.get("split.tensors.count", ("", len(tensors)))[1]
    if said != len(tensors):
        raise CorruptFileError(
            f"the parts hold {len(tensors):,} tensors, and the first says that there are {said!r}", path=first.path,
            hint=COPY_ALL_AGAIN,
        )  # fmt: skip
    findings: list[Finding] = []
    return assemble(tensors, _values(headers, findings), findings, format=NAME, file=folder)


def _headers(folder: Folder, first: Source) -> dict[str, tuple[Source, Header]]:
    """Every part with its header, in order."""
    header = read_header(first)
    count = _said(header, "split.count")
    if count <= 1:
        return {first.path.name: (first, header)}
    part = _part(first.path.name)
    if part is None or part.count != count or part.number != 1 or count > MAX_FILES:
        raise CorruptFileError(
            f"it is part {_said(header, 'split.no') + 1} of {count}, which its name does not say", path=first.path,
            hint="give the files their names back: NAME-00001-of-0000N.gguf",
        )  # fmt: skip
    names, headers = part.siblings, dict[str, tuple[Source, Header]]()
    for number, (name, file) in enumerate(_opened(folder, names, first).items()):
        with located(file.path):
            header = read_header(file)
        said = _said(header, "split.no"), _said(header, "split.count")
        if said != (number, count):
            raise CorruptFileError(
                f"it says that it is part {said[0] + 1} of {said[1]}, and its name that it is part {number + 1} of "
                f"{count}", path=file.path, hint=COPY_ALL_AGAIN,
            )  # fmt: skip
        headers[name] = (file, header)
    return headers


def _opened(folder: Folder, names: Sequence[str], first: Source) -> dict[str, Source]:
    opened, missing = folder.open_all(names)
    if missing:
        shown = quoted(missing, 6)
        raise CorruptFileError(
            f"{len(missing)} of {len(names)} parts missing: {shown}", path=first.path,
            hint="copy the whole set into this folder; --from gguf takes this part alone",
        )  # fmt: skip
    return opened


def _values(headers: dict[str, tuple[Source, Header]], findings: list[Finding]) -> dict[str, Typed]:
    """The metadata of all parts as one, the first of which counts; that it was split is not part of it."""
    values: dict[str, Typed] = {}
    for name, (_, header) in headers.items():
        for key, value in header.values.items():
            if key in KEYS:
                continue
            if values.setdefault(key, value) != value:
                message = f"{name!r} says something else for {key!r} than the first part, which counts"
                findings.append(Finding("shard-metadata", "warning", key, message))
    return values
