r"""What libraries run from YAML files. Here they stay text.

    hyperparams.yaml    SpeechBrain, with HyperPyYAML: !apply:, !applyref: and !new: call what they name while the file
                        is read, !name: and !module: import it, !include: reads another such file. Also in YAML's other
                        spellings (``!<!apply:…>``, ``%41``, ``%TAG``)
    *.yaml, *.yml       PyYAML without its safe loader: !!python/object/apply:, /new:, /name:, /module:
                        Hydra's _target_, Lightning's class_path, and the target in diffusion models' configurations,
                        which are imported and called with the keys beside them; the name of a pyannote.audio pipeline
                        and of its preprocessors

SpeechBrain's hyperparameters are built from classes of SpeechBrain, torch and sentencepiece; any other class is
reported. A target is reported only if it leads to Python's standard library or can run anything, because a project
names its own classes there.

Sources: hyperpyyaml/core.py; speechbrain/inference/interfaces.py; yaml/constructor.py; hydra/_internal/instantiate;
ldm/util.py (`instantiate_from_config`); pyannote/audio/core/pipeline.py (`Pipeline.from_pretrained`).
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.beside.lines import Lines
from ckptconv.formats.code import evaluated
from ckptconv.formats.code.targets import is_suspect, runs_anything
from ckptconv.formats.code.yaml_escapes import undisguised
from ckptconv.formats.code.yaml_scalars import HIDDEN, Scalars

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

HYPERPARAMETERS = "hyperparams.yaml"
SUFFIXES = (".yaml", ".yml")

_TAG = re.compile(r"!?<?!(apply|applyref|new|name|module|include):\s*([^\s>\[\]{},]*)")
_TAG_DIRECTIVE = re.compile(r"^%TAG\s+(\S+\s+\S+)", re.MULTILINE)
_PYYAML_TAG = re.compile(
    r"!<?!?!?(?:tag:yaml\.org,2002:)?python/(object/apply|object/new|object|name|module):([\w.%]*)"
)
_CLASSES = re.compile(r"((speechbrain|torch\.(nn|optim|utils\.data)|torchaudio)\.([\w.]+\.)?|transformers\.)[A-Z]\w*")
_FUNCTIONS = frozenset([
    "torch.manual_seed", "random.seed", "numpy.random.seed", "np.random.seed", "sentencepiece.SentencePieceProcessor",
    "speechbrain.utils.seed_everything", "speechbrain.utils.seed.seed_everything", "speechbrain.utils.hparams.choice",
    "speechbrain.utils.data_pipeline.DataPipeline.from_configuration",
])  # fmt: skip
"""What SpeechBrain's published models call besides classes: it seeds, picks a value, or makes an empty object."""

_NAMEABLE = re.compile(
    r"(speechbrain\.(?!utils\.(superpowers|fetching|checkpoints|data_utils|pretrained|DER|distributed)\b)"
    r"|torch\.(nn|optim)\.|torchaudio\.|operator\.)[\w.]+"
)
"""What ``!name:`` may name: functions that training calls, but none that run programs or unpickle."""

_FOREIGN = sys.stdlib_module_names | {
    "hyperpyyaml", "huggingface_hub", "joblib", "np", "numpy", "pandas", "ruamel", "sb", "scipy", "sklearn",
    "torch", "transformers", "yaml",
}  # fmt: skip
"""Modules that SpeechBrain's and torch's modules import: a name that passes through one leads elsewhere, as
``torch.nn.x.subprocess.Popen`` does.
"""

_ORDINARY = re.compile(
    r"(collections\.(OrderedDict|defaultdict|Counter)|pathlib\.\w*Path|argparse\.Namespace|torch\.(device|Size)"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray)|datetime\.\w+|builtins\.(set|frozenset|complex"
    r"|slice|tuple|bytearray)|omegaconf\.[\w.]+|torch\.(nn|optim)\.[\w.]*\.?[A-Z]\w*)"
)
"""Classes that PyYAML writes for ordinary objects."""

_TARGET_KEYS = ("_target_", "__target__", "target", "class_path")
_PIPELINE = re.compile(r"\b(pipeline|preprocessors)\b")
_YOLO_KEYS = (*sorted(evaluated.YOLO), "activation")
_LAYER = re.compile(r"(torch\.)?nn\.\w+\([\w.=, -]*\)")
"""An activation as Ultralytics writes it."""


def programs_in(path: str, text: str, files: Collection[str]) -> Iterator[Program]:
    """The programs that a YAML file runs; `files` are all files of the folder."""
    text = unquote(undisguised(text))
    lines = Lines(path, text)
    yield from _speechbrain_programs(path, text, files, lines)
    for tag in _PYYAML_TAG.finditer(text):
        kind, name = tag[1], tag[2]
        if not _ORDINARY.fullmatch(name):
            calls = kind in ("object/apply", "object/new") or is_suspect(name)
            yield Program(lines.at(tag.start()), Opaque(name, "called" if calls else "object"), "PyYAML")
    yield from _target_programs(text, lines)
    yield from _evaluated_texts(text, lines)


def _speechbrain_programs(path: str, text: str, files: Collection[str], lines: Lines) -> Iterator[Program]:
    home = path[: len(path) - len(path.rpartition("/")[2])]
    for tag in _TAG.finditer(text):
        kind, name = tag[1], tag[2]
        if kind == "include":
            is_inspected = home + name in files and name.endswith(SUFFIXES)
            node = None if is_inspected else Opaque(name, "called")
        else:
            node = _tagged(kind, name)
        if node is not None:
            yield Program(lines.at(tag.start()), node, "SpeechBrain")
    for directive in _TAG_DIRECTIVE.finditer(text):
        yield Program(lines.at(directive.start()), Opaque(directive[1], "called"), "SpeechBrain")


def _target_programs(text: str, lines: Lines) -> Iterator[Program]:
    scalars = Scalars(text)
    for key, name, at in scalars.values_of(*(key for key in _TARGET_KEYS if key in text)):
        imports_any = key != "target"  # Hydra and Lightning import any name; "target" is also a common word
        if runs_anything(name) or (imports_any and is_suspect(name)) or name == HIDDEN:
            by = "Hydra" if key.startswith("_") else "who instantiates it"
            yield Program(lines.at(at), Opaque(name, "called"), by)
        elif name.startswith("${") and key.startswith("_"):
            yield Program(lines.at(at), Opaque(name, "object"), "Hydra")
    if _PIPELINE.search(text):
        for _, name, at in scalars.values_of("name"):
            if is_suspect(name) or name == HIDDEN:
                yield Program(lines.at(at), Opaque(name, "called"), "pyannote.audio")


def _evaluated_texts(text: str, lines: Lines) -> Iterator[Program]:
    for value, at in Scalars(text).texts_of(*_YOLO_KEYS):
        runs = any(map(evaluated.runs, {value, value.rstrip("} ")}))  # a brace at its end may close the mapping
        if value == HIDDEN or (runs and not _LAYER.fullmatch(value)):
            yield Program(lines.at(at), Opaque("builtins.eval", "called", (value,)), "YOLOv5")


def _tagged(kind: str, name: str) -> Opaque | None:
    """What one of HyperPyYAML's tags names, unless it is known to be harmless."""
    foreign = not _FOREIGN.isdisjoint(name.split(".")[1:-1])
    known = (_CLASSES.fullmatch(name) and not foreign) or name in _FUNCTIONS
    if known or (kind in ("name", "module") and _NAMEABLE.fullmatch(name) and not foreign):
        return None
    return Opaque(name, "called" if kind in ("apply", "applyref", "new") else "object")
