"""Models of sentence-transformers, which are modules one after the other.

    modules.json          [{"path": "", "type": "module.Class", …}, {"path": "1_Pooling", …}, …]; "" is this folder
    model.safetensors     the first, a model of transformers'
    2_Dense/              another, with its config.json and perhaps a model.safetensors of its own

Source: sentence_transformers/base/model.py (`save`, `_load_modules`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode

MODULES = "modules.json"


def paths_in(document: object) -> list[str]:
    """The paths of the modules that lie in folders of their own. Raises CorruptFileError."""
    if not isinstance(document, list) or not all(isinstance(one, dict) for one in document):
        raise CorruptFileError(f"{MODULES} is not a list of modules")
    found = []
    for one in document:
        path = one.get("path", "")
        parts = path.rstrip("/").split("/") if isinstance(path, str) else [""]
        if path == "":
            continue
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            raise CorruptFileError(
                f"{MODULES} names {path!r}, which is not a folder in this one",
                hint="do not trust this model: it names files elsewhere",
            )
        found.append("/".join(parts))
    return found


def classes_in(document: MetaNode) -> Iterator[tuple[int, MetaNode]]:
    """What it says of each module's class, and of which; whatever else is in it is passed over."""
    for number, one in enumerate(document) if isinstance(document, list) else ():
        if isinstance(one, dict):
            yield number, one.get("type")
