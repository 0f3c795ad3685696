"""Triton and Gin configurations that run files of the folder, or name functions to call.

    config.pbtxt    Triton Inference Server. Beside this file is a folder for each version, with what its backend runs:
                    model.py (the backend "python"), or libtriton_NAME.so, the backend itself
    *.gin           Gin, which configures T5X and DDSP models. A file imports modules; after
                    ``from __gin__ import dynamic_registration`` any function in these can be a value, and is called

Sources: Triton's documentation (python_backend; TRITONSERVER_ServerOptionsSetBackendDirectory: the folders of the
version and of the model are searched first); gin/config.py, config_parser.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.beside.files import files_by_folder
from ckptconv.formats.beside.lines import Lines
from ckptconv.formats.code.targets import is_suspect

if TYPE_CHECKING:
    from collections.abc import Iterator

TRITON, GIN = "config.pbtxt", ".gin"

_BACKEND = re.compile(r"""\bbackend\s*:\s*["']([^"'\n]*)["']""")
_FILE = re.compile(r"""\bdefault_model_filename\s*:\s*["']([^"'\n]*\.py)["']""")
_GAP = r"(?:[^\S\n]|\\\n)+"
_IMPORT = re.compile(rf"^[^\S\n]*(?:from{_GAP}([\w.]+){_GAP})?import{_GAP}([\w.]+)", re.MULTILINE)
_DYNAMIC = re.compile(rf"\bfrom{_GAP}__gin__{_GAP}import{_GAP}dynamic_registration\b")


def programs_in(path: str, text: str, files: frozenset[str]) -> Iterator[Program]:
    """The programs that a configuration runs; `files` are all files of the folder."""
    name = path.rpartition("/")[2].lower()
    return _triton_programs(path, text, files) if name == TRITON else _gin_programs(path, text)


def _triton_programs(path: str, text: str, files: frozenset[str]) -> Iterator[Program]:
    home, _, _ = path.rpartition("/")
    script = next(iter(_FILE.findall(text)), "model.py")
    backends = _BACKEND.findall(text)
    for file in files_by_folder(files).get(home, ()):
        inner = file.removeprefix(f"{home}/") if home else file
        is_script = re.fullmatch(rf"\d+/{re.escape(script)}", inner) and (not backends or "python" in backends)
        if is_script or re.fullmatch(r"(?:\d+/)?(?:lib)?triton_\w+\.(?:so|dll)", inner):
            yield Program(f"{path}: backend", Opaque(inner, "called"), "Triton")


def _gin_programs(path: str, text: str) -> Iterator[Program]:
    if not _DYNAMIC.search(text):
        return
    lines = Lines(path, text)
    for found in _IMPORT.finditer(text):
        module = ".".join(filter(None, found.groups()))
        if found[1] != "__gin__" and is_suspect(f"{module}.x"):
            yield Program(lines.at(found.start()), Opaque(module, "called"), "Gin")
