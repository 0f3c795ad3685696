"""Configurations in formats of their own that have files of the folder run, or name what is called.

    config.pbtxt    Triton, which serves models: a folder with this file, and in it a folder for each version with what
                    its backend runs: model.py (the backend "python"), or libtriton_NAME.so, the backend itself
    *.gin           Gin, by which T5X and DDSP configure their models: a file imports modules, and where it says
                    ``from __gin__ import dynamic_registration`` any function in these may be a value, and is called

Sources: the documentation of Triton (python_backend; TRITONSERVER_ServerOptionsSetBackendDirectory: the folders of the
version and of the model are searched first); gin/config.py, config_parser.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.beside.files import near
from ckptconv.formats.beside.lines import Lines
from ckptconv.formats.code.targets import is_librarys

if TYPE_CHECKING:
    from collections.abc import Iterator

TRITON, GIN = "config.pbtxt", ".gin"

_BACKEND = re.compile(r"""\bbackend\s*:\s*["']([^"'\n]*)["']""")
_FILE = re.compile(r"""\bdefault_model_filename\s*:\s*["']([^"'\n]*\.py)["']""")
_GAP = r"(?:[^\S\n]|\\\n)+"
_IMPORT = re.compile(rf"^[^\S\n]*(?:from{_GAP}([\w.]+){_GAP})?import{_GAP}([\w.]+)", re.MULTILINE)
_DYNAMIC = re.compile(rf"\bfrom{_GAP}__gin__{_GAP}import{_GAP}dynamic_registration\b")


def programs_in(path: str, text: str, files: frozenset[str]) -> Iterator[Program]:
    """What one of them says of that; `files` are those of the folder that it is in."""
    name = path.rpartition("/")[2].lower()
    return _of_triton(path, text, files) if name == TRITON else _of_gin(path, text)


def _of_triton(path: str, text: str, files: frozenset[str]) -> Iterator[Program]:
    home, _, _ = path.rpartition("/")
    script = next(iter(_FILE.findall(text)), "model.py")
    backends = _BACKEND.findall(text)
    for file in near(files).get(home, ()):
        inner = file.removeprefix(f"{home}/") if home else file
        is_script = re.fullmatch(rf"\d+/{re.escape(script)}", inner) and (not backends or "python" in backends)
        if is_script or re.fullmatch(r"(?:\d+/)?(?:lib)?triton_\w+\.(?:so|dll)", inner):
            yield Program(f"{path}: backend", Opaque(inner, "called"), "Triton")


def _of_gin(path: str, text: str) -> Iterator[Program]:
    if not _DYNAMIC.search(text):
        return
    lines = Lines(path, text)
    for found in _IMPORT.finditer(text):
        module = ".".join(filter(None, found.groups()))
        if found[1] != "__gin__" and is_librarys(f"{module}.x"):
            yield Program(lines.at(found.start()), Opaque(module, "called"), "Gin")
