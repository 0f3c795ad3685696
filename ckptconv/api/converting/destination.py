"""Where a conversion writes to: one file, or a set of them in a folder, and what that takes the place of.

    --shard-size S  DST             at most S bytes of tensors    more
    ─────────────────────────────────────────────────────────────────────────────────────────
    given           out.safetensors out.safetensors               out-00001-of-0000N.safetensors …, and
                                                                  out.safetensors.index.json
                    out/, out       out/model.safetensors         out/model-00001-of-0000N.safetensors …, and
                                                                  out/model.safetensors.index.json
    given or not    x.index.json    a set, of one shard if that is all
    given           out.gguf        out.gguf                      out-00001-of-0000N.gguf … (`formats.sets.numbered`)

A single file and a set of the same name exclude each other: readers would take the one and miss the other. So do two
sets of numbered files.
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

    format:     of what is written; `path` is its file, or the one of several that points at the others.
    folder:     whether it stands in a folder that is made for it.
    rivals:     the files that stand for the same checkpoint in another form, a set or a single file.
    shard_size: bytes of tensors in a shard.
    files:      in a set, the file that each tensor goes into, ties under their first.
    said:       what to say about the files of a set.
    """

    format: Format
    path: Path
    folder: bool = False
    rivals: tuple[Path, ...] = ()
    shard_size: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    said: str = ""

    def file_of(self, checkpoint: Checkpoint) -> Callable[[str], str]:
        """The file that a tensor goes into, by its name."""
        tied = checkpoint.tied_to
        return lambda name: str(self.path.parent / self.files.get(tied.get(name, name), self.path.name))

    @property
    def findings(self) -> list[Finding]:
        """What to say about the files."""
        return [Finding("shards", "info", self.path.name, self.said)] if self.said else []

    def left_behind(self, source: PathText) -> list[Finding]:
        """A word where one folder becomes another and the first has a config.json, which is not part of a checkpoint.
        Nothing asks for one beside a GGUF.
        """
        asked = self.folder and self.format.dialect != GGUF and not os.path.isfile(self.path.parent / CONFIG)
        if not asked or not os.path.isfile(os.path.join(source, CONFIG)):
            return []
        message = (
            f"{CONFIG} and whatever else lies beside the weights are not copied, for which transformers and diffusers "
            "ask: --with-files copies them"
        )
        return [Finding("left-behind", "info", CONFIG, message, hint="--with-files")]

    def check_source(self, source: PathText, opened: Checkpoint) -> None:
        """Raise UsageError where the target is one of several files of the source, which would no longer be whole."""
        try:
            target, files = os.path.realpath(self.path), _files_of(opened)
        except (ValueError, OSError):  # a NUL in the name, a folder that is gone: `open` says so
            return
        if target not in files:
            return
        kind = registry.by_name(opened.format)
        alone = len(files) == 1 and not kind.main and os.path.dirname(target) == os.path.realpath(source)
        if alone or (target == os.path.realpath(source) and not kind.numbered):
            return
        raise UsageError(
            f"the target {str(self.path)!r} is one of the files that the source consists of, and would leave it broken",
            hint="give another name; the source can be removed afterwards",
        )

    def open(self, *, replace: bool) -> Target:
        """The target. Raises TargetExistsError where something would be replaced and `replace` is false."""
        self._check_folder(replace=replace)
        there = [one for one in self.rivals if os.path.lexists(one)]
        if there and not replace:
            several = there[0].name.endswith(INDEX_SUFFIX) or parse(there[0].name)
            form = "a set of files" if several else "one file"
            raise TargetExistsError(
                f"the target exists already, as {form}", path=there[0], hint="add --force to replace it"
            )
        target = Target(self.path, replace=replace, folders=int(self.folder))
        for one in there:
            target.supersede([one.name, *(superseded(one) if one.name.endswith(".json") else ())])
        return target

    def _check_folder(self, *, replace: bool) -> None:
        """A format that is a folder, and nothing else, has it for itself."""
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


def _files_of(checkpoint: Checkpoint) -> set[str]:
    """The files that its tensors lie in."""
    tensors = checkpoint.all_tensors.values()
    spans = [one.span or (one.placement.storage.span if one.placement else None) for one in tensors]
    files = {id(span.file): span.file for span in spans if span is not None}
    return {os.path.realpath(file.path) for file in files.values() if isinstance(file, Source)}


def _is_folder(target: PathText) -> bool:
    """Whether a path that may not exist yet is meant as a folder."""
    text = os.fspath(target)
    return text.endswith(("/", os.sep)) or os.path.isdir(text)


def _stands_in_folder(target: PathText, shard_size: int | None) -> bool:
    """Whether files of their own names are put into it: ``out/``, and for shards any folder or name without suffix."""
    text = os.fspath(target)
    if text.endswith(("/", os.sep)):
        return True
    new = "." not in os.path.basename(text) and not os.path.lexists(text)
    return shard_size is not None and (new or os.path.isdir(text))


def choose_format(target: PathText, name: str | None, shard_size: int | None) -> Format:
    """The format that is asked for, or the one of the target's name; a folder gets safetensors. Raises UsageError."""
    if "://" in os.fspath(target):
        raise UsageError("this is not a file", path=target, hint="write a file first: nothing is uploaded here")
    if name is not None:
        wanted = registry.by_name(name)
    elif _stands_in_folder(target, shard_size):
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
    """As `registry.by_suffix`; where there is no suffix at all, a folder may be meant."""
    try:
        return registry.by_suffix(Path(target))
    except UsageError as error:
        if not Path(target).suffix and not os.path.lexists(target):
            error.hint = f"{os.fspath(target)}/ makes a folder with model.safetensors in it; else {error.hint}"
        raise


def size_of_shards(text: str | int | None) -> int | None:
    """What ``--shard-size`` says, in bytes. Raises UsageError."""
    return None if text is None else parse_size(str(text))


def settle(
    wanted: Format, target: PathText, checkpoint: Checkpoint, shard_size: int | None, *, plain: bool
) -> Destination:
    """Where `checkpoint` goes, once it is known how large it is."""
    path = Path(target)
    if wanted.main:
        main, folder = _main(wanted, target)
        rivals = (main.with_name(plain_name(main.name)),) if folder and wanted.layout else ()
        return _set(wanted, main, folder, rivals, checkpoint, shard_size, plain=plain)
    if wanted.numbered:
        wanted = next(one for one in registry.all_formats() if one.sharded == wanted.name)
        shard_size = shard_size or DEFAULT_SIZE
    folder = bool(wanted.sharded) and _stands_in_folder(target, shard_size)
    if folder:
        path /= registry.by_name(wanted.sharded).main.removesuffix(INDEX_SUFFIX) or f"model{wanted.suffixes[0]}"
    index = path.with_name(path.name + INDEX_SUFFIX)
    if shard_size is None:
        indexed = wanted.sharded and not registry.by_name(wanted.sharded).numbered
        return Destination(wanted, path, folder, (index,) if indexed else ())
    sharded = registry.by_name(wanted.sharded)
    if sharded.numbered:
        return _numbered(wanted, sharded, path, folder, checkpoint, shard_size, plain=plain)
    found = _set(sharded, index, folder, (path,), checkpoint, shard_size, plain=plain)
    return found if len(set(found.files.values())) > 1 else Destination(wanted, path, folder, (index,))


def _main(wanted: Format, target: PathText) -> tuple[Path, bool]:
    """The file that points at the others: the target itself where it is called so, else one in that folder."""
    path = Path(target)
    if _is_folder(target) or not wanted.suffixes:
        return path / wanted.main, True
    if path.name.endswith((*wanted.suffixes, ".json")):
        return path, False
    plain = [suffix for one in registry.all_formats() if one.sharded == wanted.name for suffix in one.suffixes]
    if path.name.endswith(tuple(plain)):
        return path.with_name(path.name + INDEX_SUFFIX), False
    return path / wanted.main, True


def _set(
    wanted: Format, path: Path, folder: bool, rivals: tuple[Path, ...], checkpoint: Checkpoint,
    shard_size: int | None, *, plain: bool,
) -> Destination:  # fmt: skip
    if not wanted.layout:
        return Destination(wanted, path, folder)
    size = shard_size or DEFAULT_SIZE
    parts = wanted.layout_of(checkpoint, size, plain=plain)
    names = shard_names(path.name, len(parts))
    said = f"{plural(len(parts), 'shard')} of up to {size:,} bytes, and their index {path.name}"
    return Destination(wanted, path, folder, rivals, size, _places(parts, names), said)


def _numbered(
    single: Format, wanted: Format, path: Path, folder: bool, checkpoint: Checkpoint, size: int, *, plain: bool
) -> Destination:
    """A set without an index, or the single file that it would be the only one of."""
    named = parse(path.name)
    path = path.with_name(named.plain) if named else path
    parts = wanted.layout_of(checkpoint, size, plain=plain)
    old = sets_of(path)
    others = tuple(path.with_name(name) for names in old.values() for name in names)
    if len(parts) < 2:
        return Destination(single, path, folder, others)
    if not path.name.endswith(wanted.suffixes):
        raise UsageError(
            f"files of a set are called NAME{wanted.suffixes[0]}, and this is {path.name!r}", hint="name DST so"
        )
    count = len(parts) + (len(parts) in old)
    if count in old:
        raise TargetExistsError(
            f"there are sets of {len(parts)} and of {count} files of this name already, one of which has to stay "
            "whole until another is written", path=path, hint="remove one of them, or choose another --shard-size",
        )  # fmt: skip
    names = part_names(path.name, count)
    said = f"{count} files of up to {size:,} bytes of tensors, the first of which stands for all"
    if count > len(parts):
        said += "; it has the metadata alone, as the set that is replaced has the names of one file less"
    files = _places(parts, names[count - len(parts) :])
    return Destination(wanted, path.with_name(names[0]), folder, (path, *others), size, files, said)


def _places(parts: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, str]:
    return {tensor: name for part, name in zip(parts, names, strict=True) for tensor in part}
