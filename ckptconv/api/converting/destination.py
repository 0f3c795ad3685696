"""Chooses where a conversion writes: one file, or a set of files in a folder; and which files that replaces.

    --shard-size S  DST             up to S bytes of tensors      more
    ─────────────────────────────────────────────────────────────────────────────────────────
    given           out.safetensors out.safetensors               out-00001-of-0000N.safetensors …, and
                                                                  out.safetensors.index.json
                    out/, out       out/model.safetensors         out/model-00001-of-0000N.safetensors …, and
                                                                  out/model.safetensors.index.json
    given or not    x.index.json    a set, even of a single shard
    given           out.gguf        out.gguf                      out-00001-of-0000N.gguf … (`formats.sets.numbered`)

A single file and a set of the same name cannot stand side by side: readers would take one and miss the other. The same
goes for two sets of numbered files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.edits.name_rule import GGUF
from ckptconv.errors import FileAccessError, TargetExistsError, UsageError
from ckptconv.formats import registry
from ckptconv.formats.sets.numbered import parse, part_names, sets_of
from ckptconv.formats.sets.shard_names import INDEX_SUFFIX, plain_name
from ckptconv.formats.sets.split import DEFAULT_SIZE, parse_size, shard_names, superseded
from ckptconv.io.source import Source
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format


@dataclass(frozen=True, slots=True)
class Destination:
    """What is written, and where.

    format:     the format that is written.
    path:       the file; in a set, the one that points at the others.
    folder:     whether it stands in a folder that is made for it.
    rivals:     the files that hold the same checkpoint in another form, a set or a single file.
    shard_size: the bytes of tensors in a shard, at most.
    files:      in a set, the file that each tensor goes into; of a tie, only the first name.
    summary:    what to report about the files of a set.
    """

    format: Format
    path: Path
    folder: bool = False
    rivals: tuple[Path, ...] = ()
    shard_size: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""

    def file_of(self, checkpoint: Checkpoint) -> Callable[[str], str]:
        """A function from a tensor's name to the file that it goes into."""
        tied = checkpoint.tied_to
        return lambda name: str(self.path.parent / self.files.get(tied.get(name, name), self.path.name))

    @property
    def findings(self) -> list[Finding]:
        """What to report about the files."""
        return [Finding("shards", "info", self.path.name, self.summary)] if self.summary else []

    def left_behind(self, source: PathText) -> list[Finding]:
        """A finding if the source's folder has a config.json and the target's folder will have none.

        A GGUF needs none beside it.
        """
        lacks_config = self.folder and self.format.dialect != GGUF and not os.path.isfile(self.path.parent / CONFIG)
        if not lacks_config or not os.path.isfile(os.path.join(source, CONFIG)):
            return []
        message = (
            f"{CONFIG} and whatever else lies beside the weights are not copied, for which transformers and diffusers "
            "ask: --with-files copies them"
        )
        return [Finding("left-behind", "info", CONFIG, message, hint="--with-files")]

    def check_source(self, source: PathText, opened: Checkpoint) -> None:
        """Raise UsageError if the target is one of several files of the source, which replacing it would break."""
        try:
            target, files = os.path.realpath(self.path), _tensor_files(opened)
        except (ValueError, OSError):  # a NUL in the name, or a folder that is gone: `open` reports it
            return
        if target not in files:
            return
        source_format = registry.by_name(opened.format)
        source_path = os.path.realpath(source)
        is_only_file = len(files) == 1 and not source_format.main and os.path.dirname(target) == source_path
        is_whole_source = target == source_path and not source_format.numbered
        if is_only_file or is_whole_source:
            return
        raise UsageError(
            f"the target {str(self.path)!r} is one of the files that the source consists of, and would leave it broken",
            hint="give another name; the source can be removed afterwards",
        )

    def open(self, *, replace: bool) -> Target:
        """Open the target. Raises TargetExistsError if something would be replaced and `replace` is false."""
        self._check_folder(replace=replace)
        existing = [path for path in self.rivals if os.path.lexists(path)]
        if existing and not replace:
            is_set = existing[0].name.endswith(INDEX_SUFFIX) or parse(existing[0].name)
            form = "a set of files" if is_set else "one file"
            raise TargetExistsError(
                f"the target exists already, as {form}", path=existing[0], hint="add --force to replace it"
            )
        target = Target(self.path, replace=replace, folders=int(self.folder))
        for path in existing:
            shards = superseded(path) if path.name.endswith(".json") else ()
            target.supersede([path.name, *shards])
        return target

    def _check_folder(self, *, replace: bool) -> None:
        """For a format that is always a folder: raise unless it can have the folder to itself."""
        if not self.format.main or self.format.suffixes:
            return
        folder = self.path.parent
        if os.path.isdir(folder):
            if not replace and os.listdir(folder):
                raise TargetExistsError(
                    "the target exists already, and is not empty", path=folder,
                    hint="add --force to replace the checkpoint in it; other files stay",
                )  # fmt: skip
        elif os.path.lexists(folder) and not os.path.islink(folder):
            raise FileAccessError(
                f"the target is a file, and {self.format.name} is a folder",
                path=folder,
                hint="give the path of a folder",
            )


def _tensor_files(checkpoint: Checkpoint) -> set[str]:
    """The real paths of the files that the checkpoint's tensors lie in."""
    files = {}
    for tensor in checkpoint.all_tensors.values():
        span = tensor.span or (tensor.placement.storage.span if tensor.placement else None)
        if span is not None:
            files[id(span.file)] = span.file
    return {os.path.realpath(file.path) for file in files.values() if isinstance(file, Source)}


def _is_folder(target: PathText) -> bool:
    """Whether a path that may not exist yet is meant as a folder."""
    text = os.fspath(target)
    return text.endswith(("/", os.sep)) or os.path.isdir(text)


def stands_in_folder(target: PathText, shard_size: int | None) -> bool:
    """Whether DST is a folder in which we name the files: ``out/``; for shards, any folder or name without suffix."""
    text = os.fspath(target)
    if text.endswith(("/", os.sep)):
        return True
    is_new_name = "." not in os.path.basename(text) and not os.path.lexists(text)
    return shard_size is not None and (is_new_name or os.path.isdir(text))


def choose_format(target: PathText, name: str | None, shard_size: int | None) -> Format:
    """The format that is asked for, or the one of the target's suffix; safetensors for a folder. Raises UsageError."""
    if "://" in os.fspath(target):
        raise UsageError("this is not a file", path=target, hint="write a file first: nothing is uploaded here")
    if name is not None:
        wanted = registry.by_name(name)
    elif stands_in_folder(target, shard_size):
        wanted = registry.by_name("safetensors")
    elif os.path.isdir(target):
        text = os.fspath(target)
        raise UsageError(
            f"no format is known for the folder {text!r}",
            hint=f"{os.path.join(text, '')} puts model.safetensors into it; else name a file, or use --to FORMAT",
        )
    else:
        wanted = _by_suffix(target)
    if not wanted.writer:
        raise UsageError(f"the format {wanted.name!r} can be read but not written", hint="'ckptconv formats' lists all")
    if shard_size is not None and not (wanted.sharded or wanted.layout):
        raise UsageError(f"the format {wanted.name!r} has no shards", hint="leave --shard-size out")
    return wanted


def _by_suffix(target: PathText) -> Format:
    """`registry.by_suffix`; without a suffix, the error's hint shows how to name a folder."""
    try:
        return registry.by_suffix(Path(target))
    except UsageError as error:
        if not Path(target).suffix and not os.path.lexists(target):
            error.hint = f"{os.fspath(target)}/ makes a folder with model.safetensors in it; else {error.hint}"
        raise


def parse_shard_size(text: str | int | None) -> int | None:
    """The value of ``--shard-size`` in bytes. Raises UsageError."""
    return None if text is None else parse_size(str(text))


def choose_destination(
    wanted: Format, target: PathText, checkpoint: Checkpoint, shard_size: int | None, *, plain: bool
) -> Destination:
    """The destination of `checkpoint`, whose size decides about shards. `plain`: it is written without a record."""
    path = Path(target)
    if wanted.main:
        main, folder = _main_file(wanted, target)
        rivals = (main.with_name(plain_name(main.name)),) if folder and wanted.layout else ()
        return _indexed_set(wanted, main, folder, rivals, checkpoint, shard_size, plain=plain)
    if wanted.numbered:
        wanted = next(single for single in registry.all_formats() if single.sharded == wanted.name)
        shard_size = shard_size or DEFAULT_SIZE
    folder = bool(wanted.sharded) and stands_in_folder(target, shard_size)
    if folder:
        path /= registry.by_name(wanted.sharded).main.removesuffix(INDEX_SUFFIX) or f"model{wanted.suffixes[0]}"
    index = path.with_name(path.name + INDEX_SUFFIX)
    if shard_size is None:
        may_have_index = wanted.sharded and not registry.by_name(wanted.sharded).numbered
        return Destination(wanted, path, folder, (index,) if may_have_index else ())
    sharded = registry.by_name(wanted.sharded)
    if sharded.numbered:
        return _numbered_set(wanted, sharded, path, folder, checkpoint, shard_size, plain=plain)
    shards = _indexed_set(sharded, index, folder, (path,), checkpoint, shard_size, plain=plain)
    return shards if len(set(shards.files.values())) > 1 else Destination(wanted, path, folder, (index,))


def _main_file(wanted: Format, target: PathText) -> tuple[Path, bool]:
    """The file that points at the others, and whether it lies in the folder DST: then DST is not named like such a
    file.
    """
    path = Path(target)
    if _is_folder(target) or not wanted.suffixes:
        return path / wanted.main, True
    if path.name.endswith((*wanted.suffixes, ".json")):
        return path, False
    singles = [single for single in registry.all_formats() if single.sharded == wanted.name]
    if path.name.endswith(tuple(suffix for single in singles for suffix in single.suffixes)):
        return path.with_name(path.name + INDEX_SUFFIX), False
    return path / wanted.main, True


def _indexed_set(
    wanted: Format, path: Path, folder: bool, rivals: tuple[Path, ...], checkpoint: Checkpoint,
    shard_size: int | None, *, plain: bool,
) -> Destination:  # fmt: skip
    """A set of shards and their index `path`; one file for a format that is written without shards."""
    if not wanted.layout:
        return Destination(wanted, path, folder)
    size = shard_size or DEFAULT_SIZE
    parts = wanted.layout_of(checkpoint, size, plain=plain)
    names = shard_names(path.name, len(parts))
    summary = f"{plural(len(parts), 'shard')} of up to {size:,} bytes, and their index {path.name}"
    return Destination(wanted, path, folder, rivals, size, _file_by_tensor(parts, names), summary)


def _numbered_set(
    single: Format, wanted: Format, path: Path, folder: bool, checkpoint: Checkpoint, size: int, *, plain: bool
) -> Destination:
    """A set of numbered files without an index; a single file if one is enough."""
    numbered_name = parse(path.name)
    path = path.with_name(numbered_name.plain) if numbered_name else path
    parts = wanted.layout_of(checkpoint, size, plain=plain)
    existing_sets = sets_of(path)
    existing = tuple(path.with_name(name) for names in existing_sets.values() for name in names)
    if len(parts) < 2:
        return Destination(single, path, folder, existing)
    if not path.name.endswith(wanted.suffixes):
        raise UsageError(
            f"files of a set are called NAME{wanted.suffixes[0]}, and this is {path.name!r}", hint="name DST so"
        )
    # the set that is replaced has to stay whole until the new one is, so that it needs other names
    count = len(parts) + 1 if len(parts) in existing_sets else len(parts)
    if count in existing_sets:
        raise TargetExistsError(
            f"there are sets of {len(parts)} and of {count} files of this name already, one of which has to stay "
            "whole until another is written", path=path, hint="remove one of them, or choose another --shard-size",
        )  # fmt: skip
    names = part_names(path.name, count)
    summary = f"{count} files of up to {size:,} bytes of tensors, the first of which stands for all"
    if count > len(parts):
        summary += "; it has the metadata alone, as the set that is replaced has the names of one file less"
    files = _file_by_tensor(parts, names[count - len(parts) :])
    return Destination(wanted, path.with_name(names[0]), folder, (path, *existing), size, files, summary)


def _file_by_tensor(parts: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, str]:
    return {tensor: name for part, name in zip(parts, names, strict=True) for tensor in part}
