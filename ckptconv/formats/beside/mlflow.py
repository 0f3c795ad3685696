r"""What MLflow runs of the folder of a model, which stays text here.

    MLmodel                     YAML, of each flavour: "loader_module" is imported and called; "model_code_path" is run;
                                the folder "code" goes to the front of Python's path, so that whatever the loader
                                imports next is taken from there; "skops_trusted_types" are what skops may make
                                anything of; "python_model" is a pickle, which is looked at as others are
    data/pickle_module_info.txt of PyTorch's: the module that is to unpickle, which is imported

Before 3 MLflow asked for nothing; since then pickles and skops want MLFLOW_ALLOW_PICKLE_DESERIALIZATION, code does not.
MLflow's own loaders are imported only where their names are written out: any other way to write one is told.

Sources: mlflow/pyfunc/__init__.py (`load_model`), pyfunc/model.py, utils/model_utils.py, sklearn/__init__.py,
pytorch/__init__.py.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.beside.files import folders_with_modules
from ckptconv.formats.code.yaml_escapes import undisguised

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL, UNPICKLER = "mlmodel", "pickle_module_info.txt"

_SAID = re.compile(
    r"""(?<![\w.-])["']?(loader_module|code|model_code_path|skops_trusted_types)["']?\s*+:(?=\s|["'\[{])\s*+"""
    r"""(\[[^\]]*\]?|(?:-\s+\S+\s*)+|["']?[^\s"'#,}]*)"""
)
_MENTIONED = re.compile(r"(?<![\w.-])(loader_module|model_code_path)(?![\w.-])")
_NOTHING = ("", "null", "~", "[]")
_LOADER = re.compile(r"mlflow\.\w+(\.\w+)*")
_TYPES = re.compile(r"[\[\]\s,'\"-]+")
_HARMLESS = re.compile(r"(sklearn|numpy|scipy|xgboost|lightgbm|catboost)(\.\w+)*\.\w+")
_UNPICKLERS = ("mlflow.pytorch.pickle_module", "pickle", "cloudpickle", "dill", "torch")


def programs_in(path: str, text: str, files: frozenset[str]) -> Iterator[Program]:
    """What a file of either says of that; `files` are those of the folder that it is in."""
    home, _, name = path.rpartition("/")
    if name.lower() == UNPICKLER:
        if text.strip() not in _UNPICKLERS:
            yield Program(path, Opaque(text.strip()[:100], "called"), "MLflow")
        return
    text = undisguised(text)
    for found in _SAID.finditer(text):
        key, said = found[1], found[2].strip().strip("\"'")
        if said not in _NOTHING and not _is_plain(key, said, home, files):
            yield Program(f"{path}: {key}", Opaque(said, "called"), "MLflow")
    said_keys = {found.start(1) for found in _SAID.finditer(text)}
    for found in _MENTIONED.finditer(text):
        if found.start() not in said_keys:  # by an anchor, or as a key that YAML writes otherwise
            yield Program(path, Opaque(found[1], "called"), "MLflow")


def _is_plain(key: str, said: str, home: str, files: frozenset[str]) -> bool:
    """Whether it names MLflow's own, or a folder without a program in it."""
    match key:
        case "loader_module":
            return _LOADER.fullmatch(said) is not None
        case "skops_trusted_types":
            return all(_HARMLESS.fullmatch(one) for one in _TYPES.split(said) if one)
        case "code":
            folder = posixpath.normpath(posixpath.join("/", home, said)).lstrip("/")
            leads_out = said.startswith(("/", "..", "*", "&", "!")) or "\\" in said or ".." in said
            return not leads_out and folder not in folders_with_modules(files)
    return False
