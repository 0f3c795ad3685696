r"""What libraries run of YAML, which stays text here.

    hyperparams.yaml    SpeechBrain, by HyperPyYAML: !apply:, !applyref: and !new: call what they name as the file is
                        read, !name: and !module: import it, !include: reads another file as this one is; also in what
                        YAML spells otherwise (``!<!apply:…>``, ``%41``, ``%TAG``)
    *.yaml, *.yml       PyYAML, where it is not told to be safe: !!python/object/apply:, /new:, /name:, /module:
                        Hydra's _target_, Lightning's class_path, and the target of diffusion models' configurations,
                        which are imported and called with what stands beside them; the name of pyannote.audio's
                        pipeline, and of its preprocessors

Classes of SpeechBrain's, torch's and sentencepiece's are what such hyperparameters are made of; any other is told. Of
targets those are told that lead to Python's own library or can run anything: a project names classes of its own.

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
from ckptconv.formats.code.targets import is_librarys, runs_anything
from ckptconv.formats.code.yaml_escapes import undisguised
from ckptconv.formats.code.yaml_scalars import HIDDEN, Scalars

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

HYPERPARAMETERS = "hyperparams.yaml"
SUFFIXES = (".yaml", ".yml")

_TAG = re.compile(r"!?<?!(apply|applyref|new|name|module|include):\s*([^\s>\[\]{},]*)")
_RESOLVED = re.compile(r"^%TAG\s+(\S+\s+\S+)", re.MULTILINE)
_PYTHON = re.compile(r"!<?!?!?(?:tag:yaml\.org,2002:)?python/(object/apply|object/new|object|name|module):([\w.%]*)")
_CLASSES = re.compile(r"((speechbrain|torch\.(nn|optim|utils\.data)|torchaudio)\.([\w.]+\.)?|transformers\.)[A-Z]\w*")
_FUNCTIONS = frozenset([
    "torch.manual_seed", "random.seed", "numpy.random.seed", "np.random.seed", "sentencepiece.SentencePieceProcessor",
    "speechbrain.utils.seed_everything", "speechbrain.utils.seed.seed_everything", "speechbrain.utils.hparams.choice",
    "speechbrain.utils.data_pipeline.DataPipeline.from_configuration",
])  # fmt: skip
"""What models that SpeechBrain's own people publish call besides; it seeds, picks a value, or makes an empty object."""

_NAMED = re.compile(
    r"(speechbrain\.(?!utils\.(superpowers|fetching|checkpoints|data_utils|pretrained|DER|distributed)\b)"
    r"|torch\.(nn|optim)\.|torchaudio\.|operator\.)[\w.]+"
)
"""What ``!name:`` may name: a function that training calls; none of those that run programs or unpickle."""

_FOREIGN = sys.stdlib_module_names | {
    "hyperpyyaml", "huggingface_hub", "joblib", "np", "numpy", "pandas", "ruamel", "sb", "scipy", "sklearn",
    "torch", "transformers", "yaml",
}  # fmt: skip
"""What SpeechBrain's and torch's modules import: a path through it leads elsewhere, ``torch.nn.x.subprocess.Popen``."""

_BUILT = re.compile(
    r"(collections\.(OrderedDict|defaultdict|Counter)|pathlib\.\w*Path|argparse\.Namespace|torch\.(device|Size)"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray)|datetime\.\w+|builtins\.(set|frozenset|complex"
    r"|slice|tuple|bytearray)|omegaconf\.[\w.]+|torch\.(nn|optim)\.[\w.]*\.?[A-Z]\w*)"
)
"""What PyYAML writes of honest objects."""

_KEYS = ("_target_", "__target__", "target", "class_path")
_PIPELINE = re.compile(r"\b(pipeline|preprocessors)\b")
_YOLOS = (*sorted(evaluated.YOLO), "activation")
_LAYER = re.compile(r"(torch\.)?nn\.\w+\([\w.=, -]*\)")
"""An activation as Ultralytics writes it."""


def programs_in(path: str, text: str, files: Collection[str]) -> Iterator[Program]:
    """What a file of YAML says of that; `files` are those of the folder that it is in."""
    text = unquote(undisguised(text))
    home = path[: len(path) - len(path.rpartition("/")[2])]
    lines = Lines(path, text)
    for found in _TAG.finditer(text):
        kind, name = found[1], found[2]
        if kind == "include":
            is_seen = home + name in files and name.endswith(SUFFIXES)
            node = None if is_seen else Opaque(name, "called")
        else:
            node = _of_tag(kind, name)
        if node is not None:
            yield Program(lines.at(found.start()), node, "SpeechBrain")
    for found in _RESOLVED.finditer(text):
        yield Program(lines.at(found.start()), Opaque(found[1], "called"), "SpeechBrain")
    for found in _PYTHON.finditer(text):
        kind, name = found[1], found[2]
        if not _BUILT.fullmatch(name):
            calls = kind in ("object/apply", "object/new") or is_librarys(name)
            yield Program(lines.at(found.start()), Opaque(name, "called" if calls else "object"), "PyYAML")
    yield from _of_targets(text, lines)
    yield from _evaluated(text, lines)


def _of_targets(text: str, lines: Lines) -> Iterator[Program]:
    scalars = Scalars(text)
    for key, name, at in scalars.values_of(*(key for key in _KEYS if key in text)):
        is_hydras = key != "target"
        if runs_anything(name) or (is_hydras and is_librarys(name)) or name == HIDDEN:
            by = "Hydra" if key.startswith("_") else "who instantiates it"
            yield Program(lines.at(at), Opaque(name, "called"), by)
        elif name.startswith("${") and key.startswith("_"):
            yield Program(lines.at(at), Opaque(name, "object"), "Hydra")
    if _PIPELINE.search(text):
        for _, name, at in scalars.values_of("name"):
            if is_librarys(name) or name == HIDDEN:
                yield Program(lines.at(at), Opaque(name, "called"), "pyannote.audio")


def _evaluated(text: str, lines: Lines) -> Iterator[Program]:
    for said, at in Scalars(text).texts_of(*_YOLOS):
        runs = any(map(evaluated.runs, {said, said.rstrip("} ")}))  # the brace of a mapping, or its own
        if said == HIDDEN or (runs and not _LAYER.fullmatch(said)):
            yield Program(lines.at(at), Opaque("builtins.eval", "called", (said,)), "YOLOv5")


def _of_tag(kind: str, name: str) -> Opaque | None:
    foreign = not _FOREIGN.isdisjoint(name.split(".")[1:-1])
    known = (_CLASSES.fullmatch(name) and not foreign) or name in _FUNCTIONS
    if known or (kind in ("name", "module") and _NAMED.fullmatch(name) and not foreign):
        return None
    return Opaque(name, "called" if kind in ("apply", "applyref", "new") else "object")
