"""What TorchServe's manifest says of a ``.mar``: which file has the weights, and what of the archive it runs.

TorchServe loads the handler, and the module of the model's class, from the archive as Python, and installs its
requirements where it is told to. Handlers of its own are named without ``.py``. Its archiver writes a ``.tar.gz``, too
(``--archive-format tgz``), in which all stands in a folder that is called as the model.

Source: pytorch/serve, model-archiver/model_archiver/manifest_components/model.py and model_packaging_utils.py;
ts/model_loader.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.errors import COPY_ARCHIVE_AGAIN, CorruptFileError, UnsupportedError
from ckptconv.io.limits import MAX_DOCUMENT

if TYPE_CHECKING:
    from ckptconv.io.archive import Archive

MANIFEST = "MAR-INF/MANIFEST.json"

_RUN = ("handler", "modelFile", "requirementsFile")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The part of it that is about the model; `home` is what stands before the members' names, or nothing."""

    file: str
    model: dict[str, Any]
    home: str = ""

    @classmethod
    def of(cls, archive: Archive) -> Manifest | None:
        """None where there is none. Raises CorruptFileError, LimitError, UnsupportedError (no weights are named)."""
        home = _home(archive)
        if home is None:
            return None
        text = archive.text(home + MANIFEST, MAX_DOCUMENT)
        try:
            model = strict_json.loads(text)["model"]
            file = model.get("serializedFile")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptFileError(f"{MANIFEST!r} is none of TorchServe's", hint=COPY_ARCHIVE_AGAIN) from error
        if not isinstance(file, str) or not file:
            raise UnsupportedError(
                f"{MANIFEST!r} names no file of weights: its handler gets them elsewhere",
                hint=f"name a file in it: {archive.source.path / next(iter(archive.members))}",
            )
        if home + file not in archive.members:
            raise CorruptFileError(f"{MANIFEST!r} names {file!r}, which is not in the archive", hint=COPY_ARCHIVE_AGAIN)
        return cls(home + file, model, home)

    def programs(self, archive: Archive) -> tuple[Program, ...]:
        """What TorchServe would run of the archive."""
        found = []
        for key in _RUN:
            said = self.model.get(key)
            file = said.partition(":")[0] if isinstance(said, str) else ""
            own = next((name for name in (file, f"{file}.py") if self.home + name in archive.members), None)
            if file and own is not None:
                found.append(Program(f"{self.home}{MANIFEST}: model.{key}", Opaque(own, "called"), "TorchServe"))
        return tuple(found)


def _home(archive: Archive) -> str | None:
    """The folder that the manifest's names are of, with its slash: none, or the one that all is in."""
    if MANIFEST in archive.members:
        return ""
    tops = {path.partition("/")[0] for path in archive.members}
    home = f"{tops.pop()}/" if len(tops) == 1 else ""
    return home if home + MANIFEST in archive.members else None
