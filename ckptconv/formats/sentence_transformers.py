"""The ``modules.json`` of a sentence-transformers folder. Such a model is a chain of modules.

    modules.json          [{"path": "", "type": "module.Class", …}, {"path": "1_Pooling", …}, …]; "" is this folder
    model.safetensors     the first module, a transformers model
    2_Dense/              another module: its config.json, and perhaps a model.safetensors of its own

Source: sentence_transformers/base/model.py (`save`, `_load_modules`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.metadata import MetaNode

MODULES = "modules.json"


def module_folders(document: object) -> list[str]:
    """The paths of the modules that have a folder of their own. Raises CorruptFileError."""
    if not isinstance(document, list) or not all(isinstance(module, dict) for module in document):
        raise CorruptFileError(f"{MODULES} is not a list of modules")
    folders = []
    for module in document:
        path = module.get("path", "")
        if path == "":
            continue
        parts = path.rstrip("/").split("/") if isinstance(path, str) else [""]
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            raise CorruptFileError(
                f"{MODULES} names {path!r}, which is not a folder in this one",
                hint="do not trust this model: it names files elsewhere",
            )
        folders.append("/".join(parts))
    return folders


def module_classes(document: MetaNode) -> Iterator[tuple[int, MetaNode]]:
    """The index of each module and its ``type``; anything that is not a module is skipped."""
    if not isinstance(document, list):
        return
    for index, module in enumerate(document):
        if isinstance(module, dict):
            yield index, module.get("type")
