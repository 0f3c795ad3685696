"""TorchServe's manifest in a ``.mar``: which file has the weights, and what TorchServe would run.

TorchServe loads the handler, and the module with the model's class, as Python from the archive, and installs its
requirements if it is configured to. Its own handlers are named without ``.py``. Its archiver also writes ``.tar.gz``
(``--archive-format tgz``), in which everything is in a folder with the model's name.

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
    """The manifest's part about the model.

    file:  the member with the weights.
    model: the manifest's entries about the model.
    home:  the prefix of the members' names; "" if there is none.
    """

    file: str
    model: dict[str, Any]
    home: str = ""

    @classmethod
    def of(cls, archive: Archive) -> Manifest | None:
        """Read an archive's manifest; None if it has none.

        Raises CorruptFileError, LimitError, and UnsupportedError if it names no weights.
        """
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
        """The files of the archive that TorchServe would run."""
        programs = []
        for key in _RUN:
            value = self.model.get(key)
            file = value.partition(":")[0] if isinstance(value, str) else ""
            member = next((name for name in (file, f"{file}.py") if self.home + name in archive.members), None)
            if file and member is not None:
                programs.append(Program(f"{self.home}{MANIFEST}: model.{key}", Opaque(member, "called"), "TorchServe"))
        return tuple(programs)


def _home(archive: Archive) -> str | None:
    """The folder that the manifest's names are relative to, with a slash; "" for the archive itself; None if there is
    no manifest.
    """
    if MANIFEST in archive.members:
        return ""
    tops = {path.partition("/")[0] for path in archive.members}
    home = f"{tops.pop()}/" if len(tops) == 1 else ""
    return home if home + MANIFEST in archive.members else None
