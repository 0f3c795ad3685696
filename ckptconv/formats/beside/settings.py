"""What SpeechBrain and MLflow run of their YAML, which stays text here.

    hyperparams.yaml    SpeechBrain, by HyperPyYAML: !apply: and !new: call what they name as the file is read, !name:
                        and !module: import it; also in what YAML spells otherwise (``!<!apply:…>``, ``%41``), and its
                        own ``!!python/…`` tags
    MLmodel             MLflow: "loader_module" is imported and called, with the folder "code" on Python's path;
                        "model_code_path" is run; "python_model" is a pickle, which is looked at as others are

Classes of SpeechBrain's, torch's and sentencepiece's are what such hyperparameters are made of; any other is told.

Sources: hyperpyyaml/core.py; mlflow/pyfunc/__init__.py (`load_model`, `_load_model_or_server`), mlflow/pyfunc/model.py.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

HYPERPARAMETERS, MLMODEL = "hyperparams.yaml", "MLmodel"

_TAG = re.compile(r"!?<?!(apply|new|name|module):\s*([^\s>\[\]{},]*)")
_PYTHON = re.compile(r"!<?!?!?(?:tag:yaml\.org,2002:)?python/([^\s>\[\]{},]+)|^%TAG\s+(\S+\s+\S+)", re.MULTILINE)
_CLASSES = re.compile(r"(speechbrain|torch(\.nn|\.optim|\.utils\.data|audio)?|transformers)\.([\w.]+\.)?[A-Z]\w*")
_FUNCTIONS = frozenset([
    "torch.manual_seed", "random.seed", "numpy.random.seed", "np.random.seed", "sentencepiece.SentencePieceProcessor",
    "speechbrain.utils.seed_everything", "speechbrain.utils.hparams.choice",
    "speechbrain.utils.data_pipeline.DataPipeline.from_configuration",
])  # fmt: skip
"""What models that SpeechBrain's own people publish call besides; it seeds, picks a value, or makes an empty object."""

_NAMED = re.compile(r"(speechbrain\.(?!utils\.superpowers)|torch\.(nn|optim)\.|torchaudio\.)[\w.]+")
"""What ``!name:`` may name: a function that training calls."""

_LINE = re.compile(
    r"""^\s*(?:-\s*)?["']?(loader_module|code|model_code_path)["']?\s*:\s*["']?([^\s"'#]+)""", re.MULTILINE
)


def programs_in(path: str, text: str) -> Iterator[Program]:
    """What a file of either says of that; nothing of any other."""
    name = path.rpartition("/")[2].lower()
    if name == HYPERPARAMETERS:
        yield from _of_hyperparameters(path, text)
    elif name == MLMODEL.lower():
        yield from _of_mlflow(path, text)


def _of_hyperparameters(path: str, text: str) -> Iterator[Program]:
    for found in _TAG.finditer(text):
        kind, name = found[1], unquote(found[2])
        foreign = not sys.stdlib_module_names.isdisjoint(name.split(".")[1:-1])  # torch.nn.x.subprocess.Popen
        known = (_CLASSES.fullmatch(name) and not foreign) or name in _FUNCTIONS
        if known or (kind in ("name", "module") and _NAMED.fullmatch(name) and not foreign):
            continue
        node = Opaque(name, "called") if kind in ("apply", "new") else Opaque(name, "object")
        yield Program(_line(path, text, found.start()), node, "SpeechBrain")
    for found in _PYTHON.finditer(text):
        name = unquote(found[1] or found[2])
        yield Program(_line(path, text, found.start()), Opaque(name, "called"), "SpeechBrain")


def _of_mlflow(path: str, text: str) -> Iterator[Program]:
    for found in _LINE.finditer(text):
        key, said = found[1], found[2]
        if said in ("null", "~") or (key == "loader_module" and said.startswith("mlflow.")):
            continue
        yield Program(f"{path}: {key}", Opaque(said, "called"), "MLflow")


def _line(path: str, text: str, at: int) -> str:
    count = text.count("\n", 0, at) + 1
    return f"{path}: line {count:,}"
