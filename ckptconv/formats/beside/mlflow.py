r"""What MLflow runs from a model's folder. Here it stays text.

    MLmodel                     YAML, for each flavour: "loader_module" is imported and called; "model_code_path" is
                                run; the folder "code" goes to the front of sys.path, so that the loader's next imports
                                come from there; "skops_trusted_types" are the types that skops may construct;
                                "python_model" is a pickle, inspected like any other
    data/pickle_module_info.txt for PyTorch models: the module that unpickles, which is imported

Before MLflow 3 none of this needed consent. Since then pickles and skops need MLFLOW_ALLOW_PICKLE_DESERIALIZATION; code
still does not. MLflow's own loaders pass only if their names are written plainly; any other spelling is reported.

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

_ENTRY = re.compile(
    r"""(?<![\w.-])["']?(loader_module|code|model_code_path|skops_trusted_types)["']?\s*+:(?=\s|["'\[{])\s*+"""
    r"""(\[[^\]]*\]?|(?:-\s+\S+\s*)+|["']?[^\s"'#,}]*)"""
)
_MENTION = re.compile(r"(?<![\w.-])(loader_module|model_code_path)(?![\w.-])")
_EMPTY = ("", "null", "~", "[]")
_LOADER = re.compile(r"mlflow\.\w+(\.\w+)*")
_TYPE_SEPARATOR = re.compile(r"[\[\]\s,'\"-]+")
_HARMLESS_TYPE = re.compile(r"(sklearn|numpy|scipy|xgboost|lightgbm|catboost)(\.\w+)*\.\w+")
_UNPICKLERS = ("mlflow.pytorch.pickle_module", "pickle", "cloudpickle", "dill", "torch")


def programs_in(path: str, text: str, files: frozenset[str]) -> Iterator[Program]:
    """The programs that one of these two files runs; `files` are all files of the folder."""
    home, _, name = path.rpartition("/")
    if name.lower() == UNPICKLER:
        if text.strip() not in _UNPICKLERS:
            yield Program(path, Opaque(text.strip()[:100], "called"), "MLflow")
        return
    text = undisguised(text)
    for entry in _ENTRY.finditer(text):
        key, value = entry[1], entry[2].strip().strip("\"'")
        if value not in _EMPTY and not _is_harmless(key, value, home, files):
            yield Program(f"{path}: {key}", Opaque(value, "called"), "MLflow")
    plain_keys = {entry.start(1) for entry in _ENTRY.finditer(text)}
    for mention in _MENTION.finditer(text):
        if mention.start() not in plain_keys:  # behind an anchor, or a key in one of YAML's other spellings
            yield Program(path, Opaque(mention[1], "called"), "MLflow")


def _is_harmless(key: str, value: str, home: str, files: frozenset[str]) -> bool:
    """Whether a value names MLflow's own code, or a folder without a program in it."""
    match key:
        case "loader_module":
            return _LOADER.fullmatch(value) is not None
        case "skops_trusted_types":
            return all(_HARMLESS_TYPE.fullmatch(name) for name in _TYPE_SEPARATOR.split(value) if name)
        case "code":
            folder = posixpath.normpath(posixpath.join("/", home, value)).lstrip("/")
            leads_out = value.startswith(("/", "..", "*", "&", "!")) or "\\" in value or ".." in value
            return not leads_out and folder not in folders_with_modules(files)
    return False
