"""Where a conversion writes to: one file, or a set of them in a folder, and what that takes the place of.

    --shard-size S  DST             at most S bytes of tensors    more
    ─────────────────────────────────────────────────────────────────────────────────────────
    given           out.safetensors out.safetensors               out-00001-of-0000N.safetensors …, and
                                                                  out.safetensors.index.json
                    out/, out       out/model.safetensors         out/model-00001-of-0000N.safetensors …, and
                                                                  out/model.safetensors.index.json
    given or not    x.index.json    a set, of one shard if that is all

A single file and a set of the same name exclude each other: readers would take the one and miss the other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import FileAccessError, TargetExistsError, UsageError
from ckptconv.formats import registry
from ckptconv.formats.shards import plain_name
from ckptconv.formats.split import DEFAULT_SIZE, parse_size, shard_names, superseded
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import Format

INDEX = ".index.json"
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Destination:
    """What is written, and where.

    format:     of what is written; `path` is its file, or the one of several that points at the others.
    folder:     whether it stands in a folder that is made for it.
    rival:      the file that stands for the same checkpoint in its other form, a set or a single file; None: none.
    shard_size: bytes of tensors in a shard.
    files:      in a set, the file that each tensor goes into, ties under their first.
    """

    format: Format
    path: Path
    folder: bool = False
    rival: Path | None = None
    shard_size: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def file_of(self, checkpoint: Checkpoint) -> Callable[[str], str]:
        """The file that a tensor goes into, by its name."""
        tied = checkpoint.tied_to
        return lambda name: str(self.path.parent / self.files.get(tied.get(name, name), self.path.name))

    @property
    def findings(self) -> list[Finding]:
        """What to say about the files."""
        count = len(set(self.files.values()))
        if not count:
            return []
        message = (
            f"{count} shard{'s' * (count != 1)} of up to {self.shard_size:,} bytes, and their index {self.path.name}"
        )
        return [Finding("shards", "info", self.path.name, message)]

    def left_behind(self, source: PathText) -> list[Finding]:
        """A word where one folder becomes another and the first has a config.json, which is no part of a checkpoint."""
        there = os.path.isfile(self.path.parent / CONFIG)
        if not self.folder or there or not os.path.isfile(os.path.join(source, CONFIG)):
            return []
        message = (
            f"{CONFIG} and whatever else lies beside the weights are not copied: transformers and diffusers ask for it"
        )
        return [Finding("left-behind", "info", CONFIG, message)]

    def open(self, *, replace: bool) -> Target:
        """The target. Raises TargetExistsError where something would be replaced and `replace` is false."""
        self._check_folder(replace=replace)
        if self.rival is None or not os.path.lexists(self.rival):
            return Target(self.path, replace=replace, folder=self.folder)
        if not replace:
            raise TargetExistsError("the target exists already", path=self.rival, hint="add --force to replace it")
        target = Target(self.path, replace=replace, folder=self.folder)
        target.supersede([self.rival.name, *superseded(self.rival)])
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


def is_folder(target: PathText) -> bool:
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
        wanted = registry.by_suffix(Path(target))
    if not wanted.writer:
        raise UsageError(f"the format {wanted.name!r} can be read but not written", hint="'ckptconv formats' lists all")
    if shard_size is not None and not (wanted.sharded or wanted.layout):
        raise UsageError(f"the format {wanted.name!r} has no shards", hint="leave --shard-size out")
    return wanted


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
        rival = main.with_name(plain_name(main.name)) if folder and wanted.layout else None
        return _set(wanted, main, folder, rival, checkpoint, shard_size, plain=plain)
    folder = bool(wanted.sharded) and _stands_in_folder(target, shard_size)
    if folder:
        path /= registry.by_name(wanted.sharded).main.removesuffix(INDEX)
    if shard_size is None:
        return Destination(wanted, path, folder)
    index = path.with_name(path.name + INDEX)
    sharded = registry.by_name(wanted.sharded)
    found = _set(sharded, index, folder, path, checkpoint, shard_size, plain=plain)
    return found if len(set(found.files.values())) > 1 else Destination(wanted, path, folder, index)


def _main(wanted: Format, target: PathText) -> tuple[Path, bool]:
    """The file that points at the others: the target itself where it is called so, else one in that folder."""
    path = Path(target)
    if is_folder(target) or not wanted.suffixes:
        return path / wanted.main, True
    if path.name.endswith((*wanted.suffixes, ".json")):
        return path, False
    plain = [suffix for one in registry.all_formats() if one.sharded == wanted.name for suffix in one.suffixes]
    if path.name.endswith(tuple(plain)):
        return path.with_name(path.name + INDEX), False
    return path / wanted.main, True


def _set(
    wanted: Format, path: Path, folder: bool, rival: Path | None, checkpoint: Checkpoint, shard_size: int | None,
    *, plain: bool,
) -> Destination:  # fmt: skip
    if not wanted.layout:
        return Destination(wanted, path, folder)
    size = shard_size or DEFAULT_SIZE
    parts = wanted.layout_of(checkpoint, size, plain=plain)
    names = shard_names(path.name, len(parts))
    files = {tensor: name for part, name in zip(parts, names, strict=True) for tensor in part}
    return Destination(wanted, path, folder, rival, size, files)
