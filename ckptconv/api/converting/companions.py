"""``--with-files``: copies the files beside a model's weights, such as its configuration, tokenizer, chat templates.

They lie in the folder that the source is or lies in, on disk or in an archive, and in folders below it that are parts
of the model; `ckptconv.formats.beside.belonging` says which. Links are followed. The target gets its name last. Files
are copied as they are, except ``config.json``: if the tensors were cast or dequantized, it gets their new type wherever
it names one, and no longer says that they are quantized.

Refused: weights of other modules that would run code when loaded, or that cannot be read.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.api.editing.dequantize import type_name, with_type_name, without_quantization_keys
from ckptconv.api.editing.quantize import quantization_config
from ckptconv.api.evidence import QUANTIZERS
from ckptconv.api.inspecting.uses import uses_of
from ckptconv.arch.statements import CONFIG
from ckptconv.core import strict_json
from ckptconv.core.report import Finding
from ckptconv.core.text import listed, plural, quoted
from ckptconv.edits.name_rule import GGUF
from ckptconv.errors import (
    COPY_AGAIN,
    COPY_ARCHIVE_AGAIN,
    CorruptFileError,
    LimitError,
    UnsafeError,
    UsageError,
    located,
)
from ckptconv.formats.beside.belonging import LEFT, PICKLED, SAFE, heads_in, is_taken, parts_of
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

    from ckptconv.api.converting.prepare import Prepared
    from ckptconv.api.editing.edits import Edits
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.beside.belonging import Part
    from ckptconv.formats.beside.places import Place

MAX_FILES = 100
"""The most files to copy, since all stay open until they get their names. A model has a dozen; a folder of captions, or
a home folder, has more.
"""

_INDENT = re.compile(r"\s*\{\r?\n([ \t]*)")

_COPY_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Companions:
    """The files to copy beside a target.

    place:    the folder that they lie in.
    names:    their paths below it.
    config:   the new contents of config.json; None if it stays as it is.
    findings: what to report about the copies.
    """

    place: Place
    names: tuple[str, ...]
    config: bytes | None
    findings: list[Finding]

    def check(self, target: Path, *, replace: bool) -> None:
        """Raise TargetExistsError if one of them exists already and may not be replaced, UsageError if the target lies
        in their folder.
        """
        if os.path.realpath(target.parent) == os.path.realpath(self.place.path):
            raise UsageError("--with-files: DST is in the folder of SRC", hint="put it into a folder of its own")
        check_free(target.parent, self.names, replace=replace)

    def applied_to(self, prepared: Prepared) -> Prepared:
        """What is written, without the metadata that holds the texts of these files, as an archive's checkpoint has."""
        if not isinstance(self.place, InArchive):
            return prepared
        written = without_copied(prepared.checkpoint, {*map(self.place.member, self.names)})
        return replace(prepared, checkpoint=written)

    def write(self, target: Target) -> None:
        """Write them beside an open target. They get their names together with it."""
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
            for start in range(0, source.size, _COPY_SIZE):
                piece = source.read_at(start, min(_COPY_SIZE, source.size - start))
                target.write_at(start, piece)
                if check is not None:
                    check.update(piece)
            if check is not None and not check.holds:
                raise CorruptFileError("it fails its CRC-32", hint=COPY_ARCHIVE_AGAIN)


def check_free(folder: Path, names: Iterable[str], *, replace: bool) -> None:
    """Raise TargetExistsError if one of these files exists in the folder already and may not be replaced."""
    if folder.is_dir():
        for name in names:
            Target(folder / name, replace=replace, folders=name.count("/"))


def find_companions(source: PathText, edits: Edits, opened: Checkpoint, made: Checkpoint) -> Companions:
    """The files beside `source` that go with the result `made`.

    Raises UsageError if there are none, LimitError if there are too many, UnsafeError for weights that would run code,
    and what reading a configuration raises.
    """
    path = Path(source)
    place = home_of(path, opened)
    folder = place.folder("")
    excluded = LEFT + (tuple(QUANTIZERS) if edits.dequantize else ())

    def to_copy(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if is_taken(name, excluded) and name != path.name)

    parts = parts_of(place)
    heads = tuple(name for name in heads_in(folder.names) if name != path.name)
    names = (*to_copy(folder.names), *heads, *dict.fromkeys(name for part in parts for name in part.files))
    if not names:
        of_gguf = opened.format.startswith(GGUF)
        hint = f"--translate {GGUF} makes them of the GGUF's metadata" if of_gguf else "leave it out"
        raise UsageError("--with-files: nothing lies beside the weights", path=source, hint=hint)
    if len(names) > MAX_FILES:
        message = f"--with-files: {len(names):,} files lie beside the weights; the limit is {MAX_FILES}"
        raise LimitError(message, path=source, hint="put the model into a folder of its own")
    weights = [name for name in names if name.endswith((SAFE, PICKLED)) or name in heads]
    for name in weights:
        _check_weights(place, name)
    changed = edits.dequantize or edits.dtype or edits.quantize
    config = _changed_config(place, edits, made) if changed and CONFIG in names else None
    dead_links = to_copy(name for name in folder.others if (folder.path / name).is_symlink())
    part_folders = {part.path.partition("/")[0] for part in parts}
    other_folders = [f"{name}/" for name in folder.folders if name not in part_folders and not name.startswith(".")]
    findings = [*_copied_findings(names, weights, config), *_not_copied_findings(dead_links, other_folders, parts)]
    return Companions(place, names, config, findings)


def _check_weights(place: Place, name: str) -> None:
    """Raise UnsafeError if weights to copy would run code when loaded, and what their reader raises."""
    with located(place.path / name), place.open(name) as source:
        with detect(source).read(source) as checkpoint:
            calls = [use.node.name for use in uses_of(checkpoint) if use.runs]
        if calls:
            raise UnsafeError(
                f"--with-files: loading this file, which would be copied, would run code: {quoted(calls)}",
                hint="leave --with-files out, and convert the folder's models one by one, with --bare",
            )


def _copied_findings(names: tuple[str, ...], weights: list[str], config: bytes | None) -> Iterator[Finding]:
    changed = f"; {CONFIG} is changed to say what is written" if config is not None else ""
    message = f"{plural(len(names), 'file')} beside the weights: {listed(names, 4)}{changed}"
    yield Finding("copied", "info", names[0], message)
    if weights:
        message = f"weights of other parts are copied as they are: {listed(weights, 4)}"
        yield Finding("copied-weights", "info", weights[0], message)


def _not_copied_findings(dead_links: Iterable[str], folders: list[str], parts: list[Part]) -> Iterator[Finding]:
    dead_links = [*dead_links, *(name for part in parts for name in part.broken)]
    if dead_links:
        shown = listed(dead_links, 4)
        message = f"not copied, since links lead nowhere, elsewhere, or to where one may not look: {shown}"
        yield Finding("not-copied", "warning", dead_links[0], message)
    unrelated = [*(name for part in parts for name in part.others), *folders]
    if unrelated:
        message = f"not copied, since nothing says that they are the model's: {listed(unrelated, 4)}"
        yield Finding("not-copied", "info", unrelated[0], message)


def _changed_config(place: Place, edits: Edits, checkpoint: Checkpoint) -> bytes | None:
    """config.json as it describes the edited tensors; None if it does so already."""
    with located(place.path / CONFIG), place.open(CONFIG) as source:
        text = source.read_all(MAX_CONFIG)
        before = strict_json.object_of(text, CONFIG, hint=COPY_AGAIN)
        strict_json.check_depth(before, CONFIG)
    after = without_quantization_keys(before.copy()) if edits.dequantize or edits.quantize else before
    assert isinstance(after, dict)
    if (name := type_name(checkpoint)) is not None:
        after = with_type_name(after, name)
    if (quantized := quantization_config(checkpoint)) is not None:
        after = {**after, **quantized}
    return None if after == before else _in_style_of(text.decode(), after)


def _in_style_of(before: str, document: dict[str, Any]) -> bytes:
    """The document as JSON in the style of the text `before`: its indent, its use of escapes, its last line's end."""
    indent = _INDENT.match(before)
    escapes = before.isascii() or "\\ud" in before.lower()  # lone surrogates can only be escaped
    text = json.dumps(document, indent=indent[1] if indent else None, ensure_ascii=escapes)
    return (text + before[len(before.rstrip()) :]).encode()
