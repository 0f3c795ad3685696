"""What lies beside a model's weights and is none: its configuration, a tokenizer, chat templates (``--with-files``).

Of the source's folder the files are taken that end as in `TAKEN`, links followed, and put beside the target, which gets
its name last. They are copied as they are, but for ``config.json``: where the tensors were cast or made plain, it names
their type wherever it names one, and no longer says that they are quantized. Left are files of weights and code, those
in `LEFT`, and folders. Sources of the suffixes: the `VOCAB_FILES_NAMES` of transformers' tokenizers.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.api.dequantize import retyped, type_name, unclaimed
from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding
from ckptconv.core.strict_json import check_depth
from ckptconv.core.text import listed, plural
from ckptconv.errors import LimitError, UsageError, located
from ckptconv.formats.beside.in_archive import InArchive
from ckptconv.formats.beside.places import place_of
from ckptconv.io.documents import read_object
from ckptconv.io.folder import Folder, folder_of
from ckptconv.io.limits import MAX_CONFIG
from ckptconv.io.source import Source
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.api.edits import Edits
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint

TAKEN = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".codes")

LEFT = ("index.json", "trainer_state.json", "adapter_config.json")
"""Of shards, of a trainer's run, of an adapter: nothing of the model that is written."""

QUANTIZERS = ("quantize_config.json", "quant_config.json")
"""In which AutoGPTQ and AutoAWQ say how weights are quantized."""

MAX_TAKEN = 100
"""Files that are copied, each of which is open until all get their names. Models have a dozen; a folder of captions, or
a home, has more.
"""

_INDENT = re.compile(r"\s*\{\r?\n([ \t]*)")

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Companions:
    """Files that are put beside a target. folder: where they are; names: theirs; config: what config.json becomes, None
    where it stays as it is; lost: names of links to nowhere.
    """

    folder: Path
    names: tuple[str, ...]
    config: bytes | None = None
    lost: tuple[str, ...] = ()

    @property
    def findings(self) -> list[Finding]:
        """What is said of it."""
        changed = f"; {CONFIG} is changed to say what is written" if self.config is not None else ""
        message = f"{plural(len(self.names), 'file')} beside the weights: {listed(self.names, 4)}{changed}"
        found = [Finding("copied", "info", self.names[0], message)]
        if self.lost:
            message = f"not copied, since links lead nowhere, or to where one may not look: {listed(self.lost, 4)}"
            found.append(Finding("not-copied", "warning", self.lost[0], message))
        return found

    def check(self, target: Path, *, replace: bool) -> None:
        """Raise TargetExistsError where one of them is there already and may not be replaced, UsageError where the
        target's folder is theirs.
        """
        if os.path.realpath(target.parent) == os.path.realpath(self.folder):
            raise UsageError("--with-files: DST is in the folder of SRC", hint="put it into a folder of its own")
        if target.parent.is_dir():
            for name in self.names:
                Target(target.parent / name, replace=replace)

    def write(self, target: Target) -> None:
        """Put them beside a target that is open; they get their names with it."""
        for name in self.names:
            if name == CONFIG and self.config is not None:
                other = target.beside(name)
                other.reserve(len(self.config))
                other.write_at(0, self.config)
                continue
            with located(self.folder / name), Source(self.folder / name) as source:
                other = target.beside(name)
                other.reserve(source.size)
                for start in range(0, source.size, _PIECE):
                    other.write_at(start, source.read_at(start, min(_PIECE, source.size - start)))


def companions_of(source: PathText, edits: Edits, opened: Checkpoint, made: Checkpoint) -> Companions:
    """What lies beside `source`, for what is made of it. Raises UsageError where there is nothing, LimitError where
    there is too much, and what reading a configuration raises.
    """
    path = Path(source)
    if not os.path.lexists(path) or isinstance(place_of(path, opened), InArchive):  # a path goes on behind an archive's
        raise UsageError(
            "--with-files: SRC is in an archive, from which nothing else is copied", path=source,
            hint="unpack it, and name the folder",
        )  # fmt: skip
    folder = Folder(folder_of(path))
    left = LEFT + (QUANTIZERS if edits.dequantize else ())

    def taken(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name.endswith(TAKEN) and not name.endswith(left) and name != path.name)

    names = taken(folder.names)
    if not names:
        raise UsageError("--with-files: nothing lies beside the weights", path=source, hint="leave it out")
    if len(names) > MAX_TAKEN:
        message = f"--with-files: {len(names):,} files lie beside the weights; the limit is {MAX_TAKEN}"
        raise LimitError(message, path=source, hint="put the model into a folder of its own")
    lost = taken(name for name in folder.others if (folder.path / name).is_symlink())
    config = _config(folder.path, edits, made) if edits.dequantize or edits.dtype else None
    return Companions(folder.path, names, config, lost)


def _config(folder: Path, edits: Edits, checkpoint: Checkpoint) -> bytes | None:
    """What config.json says of the tensors as they are now; None where that is what it says already."""
    before = read_object(folder / CONFIG, CONFIG, hint="copy it again from where it came")
    if before is None:
        return None
    with located(folder / CONFIG):
        check_depth(before, CONFIG)
    after = unclaimed(before.copy()) if edits.dequantize else before
    assert isinstance(after, dict)
    if (name := type_name(checkpoint)) is not None:
        after = retyped(after, name)
    if after == before:
        return None
    with Source(folder / CONFIG) as source:
        return _written_as(source.read_all(MAX_CONFIG).decode(), after)


def _written_as(before: str, document: dict[str, Any]) -> bytes:
    """A document in the style of the text that it was: its indent, letters or escapes, the end of the last line."""
    indent = _INDENT.match(before)
    escapes = before.isascii() or "\\ud" in before.lower()  # halves of a pair have no other spelling
    text = json.dumps(document, indent=indent[1] if indent else None, ensure_ascii=escapes)
    return (text + before[len(before.rstrip()) :]).encode()
