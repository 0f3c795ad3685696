"""What lies beside a model's weights and is none: its configuration, a tokenizer, chat templates (``--with-files``).

Which these are, in the folder that the source is or lies in, on the disk or in an archive, and in those below that are
parts of the model, says `ckptconv.formats.beside.belonging`. Links are followed; the target gets its name last. They
are copied as they are, but for ``config.json``: where the tensors were cast or made plain, it names their type wherever
it names one, and no longer says that they are quantized.

Refused: weights of a module that would run code as they are loaded, or that cannot be read.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.api.editing.dequantize import retyped, type_name, unclaimed
from ckptconv.api.editing.quantize import quantization_config
from ckptconv.api.evidence import QUANTIZERS
from ckptconv.api.inspecting.uses import uses_of
from ckptconv.arch.statements import CONFIG
from ckptconv.core import strict_json
from ckptconv.core.report import Finding
from ckptconv.core.text import listed, plural, quoted
from ckptconv.errors import (
    COPY_AGAIN,
    COPY_ARCHIVE_AGAIN,
    CorruptFileError,
    LimitError,
    UnsafeError,
    UsageError,
    located,
)
from ckptconv.formats.beside.belonging import LEFT, PICKLED, SAFE, is_taken, parts_of
from ckptconv.formats.beside.homes import home_of
from ckptconv.formats.beside.in_archive import InArchive
from ckptconv.formats.beside.members import without_copied
from ckptconv.formats.detect import detect
from ckptconv.io.archive import Member
from ckptconv.io.checksum import SpanCheck
from ckptconv.io.limits import MAX_CONFIG
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckptconv.api.editing.edits import Edits
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.beside.belonging import Part
    from ckptconv.formats.beside.places import Place

MAX_TAKEN = 100
"""Files that are copied, each of which is open until all get their names. Models have a dozen; a folder of captions, or
a home, has more.
"""

_INDENT = re.compile(r"\s*\{\r?\n([ \t]*)")

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Companions:
    """Files that are put beside a target.

    place:  the folder that they are in. names: their paths from there. config: what config.json becomes, None where it
    stays as it is. findings: what is said of it.
    """

    place: Place
    names: tuple[str, ...]
    config: bytes | None
    findings: list[Finding]

    def check(self, target: Path, *, replace: bool) -> None:
        """Raise TargetExistsError where one of them is there already and may not be replaced, UsageError where the
        target's folder is theirs.
        """
        if os.path.realpath(target.parent) == os.path.realpath(self.place.path):
            raise UsageError("--with-files: DST is in the folder of SRC", hint="put it into a folder of its own")
        if target.parent.is_dir():
            for name in self.names:
                Target(target.parent / name, replace=replace, folders=name.count("/"))

    def left_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint without the texts of an archive that are files beside it."""
        if not isinstance(self.place, InArchive):
            return checkpoint
        return without_copied(checkpoint, {*map(self.place.member, self.names)})

    def write(self, target: Target) -> None:
        """Put them beside a target that is open; they get their names with it."""
        for name in self.names:
            other = target.beside(name, folders=name.count("/"))
            if name == CONFIG and self.config is not None:
                other.reserve(len(self.config))
                other.write_at(0, self.config)
            else:
                self._copy(name, other)

    def _copy(self, name: str, target: Target) -> None:
        with located(self.place.path / name), self.place.open(name) as source:
            check = SpanCheck(source.whole) if isinstance(source, Member) else None
            target.reserve(source.size)
            for start in range(0, source.size, _PIECE):
                piece = source.read_at(start, min(_PIECE, source.size - start))
                target.write_at(start, piece)
                if check is not None:
                    check.update(piece)
            if check is not None and not check.holds:
                raise CorruptFileError("it fails its CRC-32", hint=COPY_ARCHIVE_AGAIN)


def companions_of(source: PathText, edits: Edits, opened: Checkpoint, made: Checkpoint) -> Companions:
    """What lies beside `source`, for what is made of it. Raises UsageError where there is nothing, LimitError where
    there is too much, UnsafeError where it is a program, and what reading a configuration raises.
    """
    path = Path(source)
    place = home_of(path, opened)
    folder = place.folder("")
    left = LEFT + (tuple(QUANTIZERS) if edits.dequantize else ())

    def taken(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if is_taken(name, left) and name != path.name)

    parts = parts_of(place)
    names = (*taken(folder.names), *dict.fromkeys(name for part in parts for name in part.files))
    if not names:
        raise UsageError("--with-files: nothing lies beside the weights", path=source, hint="leave it out")
    if len(names) > MAX_TAKEN:
        message = f"--with-files: {len(names):,} files lie beside the weights; the limit is {MAX_TAKEN}"
        raise LimitError(message, path=source, hint="put the model into a folder of its own")
    weights = [name for name in names if name.endswith((SAFE, PICKLED))]
    for name in weights:
        _check_weights(place, name)
    changed = edits.dequantize or edits.dtype or edits.quantize
    config = _config(place, edits, made) if changed and CONFIG in names else None
    lost = taken(name for name in folder.others if (folder.path / name).is_symlink())
    tops = {part.path.partition("/")[0] for part in parts}
    stay = [f"{name}/" for name in folder.folders if name not in tops and not name.startswith(".")]
    return Companions(place, names, config, [*_told(names, weights, config), *_not_copied(lost, stay, parts)])


def _check_weights(place: Place, name: str) -> None:
    """Raise UnsafeError where what is copied as it is would run code, and what its reader raises."""
    with located(place.path / name), place.open(name) as source:
        with detect(source).read(source) as checkpoint:
            calls = [use.node.name for use in uses_of(checkpoint) if use.runs]
        if calls:
            raise UnsafeError(
                f"--with-files: loading this file, which would be copied, would run code: {quoted(calls)}",
                hint="leave --with-files out, and convert the folder's models one by one, with --bare",
            )


def _told(names: tuple[str, ...], weights: list[str], config: bytes | None) -> Iterator[Finding]:
    changed = f"; {CONFIG} is changed to say what is written" if config is not None else ""
    message = f"{plural(len(names), 'file')} beside the weights: {listed(names, 4)}{changed}"
    yield Finding("copied", "info", names[0], message)
    if weights:
        message = f"weights of other modules are copied as they are: {listed(weights, 4)}"
        yield Finding("copied-weights", "info", weights[0], message)


def _not_copied(lost: Iterable[str], folders: list[str], parts: list[Part]) -> Iterator[Finding]:
    lost = [*lost, *(name for part in parts for name in part.lost)]
    if lost:
        message = f"not copied, since links lead nowhere, elsewhere, or to where one may not look: {listed(lost, 4)}"
        yield Finding("not-copied", "warning", lost[0], message)
    stay = [*(name for part in parts for name in part.others), *folders]
    if stay:
        message = f"not copied, since nothing says that they are the model's: {listed(stay, 4)}"
        yield Finding("not-copied", "info", stay[0], message)


def _config(place: Place, edits: Edits, checkpoint: Checkpoint) -> bytes | None:
    """What config.json says of the tensors as they are now; None where that is what it says already."""
    with located(place.path / CONFIG), place.open(CONFIG) as source:
        text = source.read_all(MAX_CONFIG)
        before = strict_json.object_of(text, CONFIG, hint=COPY_AGAIN)
        strict_json.check_depth(before, CONFIG)
    after = unclaimed(before.copy()) if edits.dequantize or edits.quantize else before
    assert isinstance(after, dict)
    if (name := type_name(checkpoint)) is not None:
        after = retyped(after, name)
    if (quantized := quantization_config(checkpoint)) is not None:
        after = {**after, **quantized}
    return None if after == before else _written_as(text.decode(), after)


def _written_as(before: str, document: dict[str, Any]) -> bytes:
    """A document in the style of the text that it was: its indent, letters or escapes, the end of the last line."""
    indent = _INDENT.match(before)
    escapes = before.isascii() or "\\ud" in before.lower()  # halves of a pair have no other spelling
    text = json.dumps(document, indent=indent[1] if indent else None, ensure_ascii=escapes)
    return (text + before[len(before.rstrip()) :]).encode()
