"""What lies beside a model's weights and is none: its configuration, a tokenizer, chat templates (``--with-files``).

Of the source's folder the files are taken that end as in `TAKEN`, links followed, and put beside the target, which gets
its name last. They are copied as they are, but for ``config.json``: where the tensors were cast or made plain, it names
their type, and no longer says that they are quantized. Left are files of weights and code, and those in `LEFT`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.api.dequantize import type_name, unclaimed
from ckptconv.arch.statements import CONFIG
from ckptconv.core.report import Finding, listed, plural
from ckptconv.errors import UsageError, located
from ckptconv.io.documents import read_object
from ckptconv.io.source import Source
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from ckptconv.api.edits import Edits
    from ckptconv.api.open import PathText
    from ckptconv.core.checkpoint import Checkpoint

TAKEN = (".json", ".jinja", ".txt", ".model", ".tiktoken")

LEFT = ("index.json", "trainer_state.json", "adapter_config.json")
"""Of shards, of a trainer's run, of an adapter: nothing of the model that is written."""

QUANTIZERS = ("quantize_config.json", "quant_config.json")
"""In which AutoGPTQ and AutoAWQ say how weights are quantized."""

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Companions:
    """Files that are put beside a target. folder: where they are; names: theirs; config: what config.json becomes, None
    where it stays as it is.
    """

    folder: Path
    names: tuple[str, ...]
    config: bytes | None = None

    @property
    def findings(self) -> list[Finding]:
        """What is said of it."""
        changed = f"; {CONFIG} is changed to say what is written" if self.config is not None else ""
        message = f"{plural(len(self.names), 'file')} beside the weights: {listed(self.names, 4)}{changed}"
        return [Finding("copied", "info", self.names[0], message)]

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


def companions_of(source: PathText, edits: Edits, checkpoint: Checkpoint) -> Companions:
    """What lies beside `source`, for what is made of it. Raises UsageError where there is nothing, and what reading a
    configuration raises.
    """
    folder = Path(source) if os.path.isdir(source) else Path(source).parent
    left = LEFT + (QUANTIZERS if edits.dequantize else ())
    found = os.listdir(folder) if folder.is_dir() else []
    weights = Path(source).name
    names = [name for name in sorted(found) if name.endswith(TAKEN) and not name.endswith(left) and name != weights]
    names = [name for name in names if (folder / name).is_file()]
    if not names:
        raise UsageError("--with-files: nothing lies beside the weights", path=source, hint="leave it out")
    config = _config(folder, edits, checkpoint) if edits.dequantize or edits.dtype else None
    return Companions(folder, tuple(names), config)


def _config(folder: Path, edits: Edits, checkpoint: Checkpoint) -> bytes | None:
    """What config.json says of the tensors as they are now; None where that is what it says already."""
    before = read_object(folder / CONFIG, CONFIG, hint="copy it again from where it came")
    if before is None:
        return None
    after = unclaimed(before.copy()) if edits.dequantize else before.copy()
    assert isinstance(after, dict)
    if (name := type_name(checkpoint)) is not None:
        after["dtype" if "dtype" in before else "torch_dtype"] = name
    return None if after == before else (json.dumps(after, indent=2, ensure_ascii=False) + "\n").encode()
