"""Classes and functions that a JSON document names and its library imports and calls without asking.

    any object          Hydra, MONAI: "_target_": NAME; Lightning: "class_path". GluonTS: {"__kind__": "instance",
                        "class": NAME, "args": […]}. NeMo 2, with Fiddle: {"type": "pyref", "module": …, "name": …}.
                        MONAI: strings that begin with "$" are Python (`formats.code.monai`)
    {"steps": […]}      LeRobot's processors: {"class": NAME, "config": {…}}, without a "registry_name"
    {"chainer": …}      DeepPavlov: {"class_name": "module:Class"}
    {"dataset_reader"}  AllenNLP: {"type": NAME} in any object that it constructs, if the name has a dot
    {"predict_schema"}  Rasa: {"uses": NAME}, a class that is imported
    config.json         Coqui TTS: {"characters_class": NAME}, likewise
    genai_config.json   onnxruntime-genai: {"custom_ops_library": FILE}, a shared library that is loaded
    configuration.json  ModelScope: "allow_remote": true runs the folder's Python files, "plugins" are installed;
                        FunASR: {"file_path_metas": …} imports files, and installs the requirements.txt beside it
    .zarray, zarr.json  zarr: numcodecs' filter "pickle" for the values of an array; also in .zmetadata

ModelScope 1.40, FunASR 1.4, GluonTS 0.17 and numcodecs 0.16 ask first, or refuse; 1.9, 1.1, 0.14 and 0.13 do not.

Sources: hydra/_internal/instantiate; gluonts/core/serde/_base.py; fiddle/_src/experimental/serialization.py;
lerobot/processor/pipeline.py; deeppavlov/core/common/registry.py; allennlp/common/registrable.py; rasa/engine/graph.py;
TTS/tts/utils/text/tokenizer.py; onnxruntime-genai/src/config.cpp; modelscope/utils/plugins.py, pipelines/builder.py;
funasr/download/download_model_from_hub.py; numcodecs/pickles.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.metadata import MetaNode, Opaque, objects_in, spell_path
from ckptconv.core.notes import Program
from ckptconv.formats.beside.files import names_of
from ckptconv.formats.code import monai
from ckptconv.formats.code.targets import is_suspect, targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRAYS = (".zarray", ".zmetadata")
"""JSON documents of zarr without a .json suffix."""

Path = tuple[object, ...]
Object = dict[str, MetaNode]


class _Named(NamedTuple):
    """Something that a document names: at which path in it, what, and which library imports or calls it."""

    path: Path
    node: Opaque
    by: str


_GLUONTS_CLASSES = ("gluonts.", "mxnet.", "numpy.", "pandas.", "pathlib.", "torch.nn.", "torch.optim.")


def programs_in(path: str, document: MetaNode, files: frozenset[str]) -> Iterator[Program]:
    """The programs that a document names. `path` is its path in the folder that holds `files`."""
    home, _, name = path.rpartition("/")
    for where, node in objects_in(document):
        for key, opaque, by in (*_named_by_object(node), *_zarr_pickles(node, name)):
            yield Program(f"{path}: {spell_path((*where, *key))}", opaque, by)
    for where, text in monai.expressions_in(document):
        yield Program(f"{path}: {spell_path(where)}", Opaque("builtins.eval", "called", (text,)), "MONAI")
    if isinstance(document, dict):
        prefix = f"{home}/" if home else ""
        for key, opaque, by in (*_named_by_document(document), *_named_files(document, name, prefix, files)):
            yield Program(f"{path}: {spell_path(key)}", opaque, by)


def _call(name: str, *args: MetaNode) -> Opaque:
    return Opaque(name, "called", args)


def _foreign_class(name: str, own: tuple[str, ...]) -> Opaque | None:
    """A class that a library imports and calls; None if the name begins with one of the library's `own` packages."""
    if is_suspect(name):
        return _call(name)
    return None if name.startswith(own) else Opaque(name, "object")


def _named_by_object(node: Object) -> Iterator[_Named]:
    """What any object in any document may name."""
    for key, opaque, by in targets_of(node):
        yield _Named(key, opaque, by)
    name = node.get("class")
    is_gluonts = isinstance(node.get("__kind__"), str)
    if is_gluonts and isinstance(name, str) and (found := _foreign_class(name, _GLUONTS_CLASSES)):
        yield _Named(("class",), found, "GluonTS")
    name = node.get("characters_class")
    if isinstance(name, str) and "." in name and (found := _foreign_class(name, ("TTS.",))):
        yield _Named(("characters_class",), found, "Coqui TTS")
    module, name = node.get("module"), node.get("name")
    if node.get("type") == "pyref" and is_suspect(f"{module}.{name}"):
        yield _Named(("name",), _call(f"{module}.{name}"), "NeMo")


def _zarr_pickles(node: Object, file: str) -> Iterator[_Named]:
    if file not in (*ARRAYS, "zarr.json"):
        return
    for key in ("id", "name"):
        if node.get(key) in ("pickle", "numcodecs.pickle"):
            yield _Named((key,), _call("pickle.loads"), "zarr")


def _named_by_document(document: Object) -> Iterator[_Named]:
    """What a document names whose top-level keys show which library it is for."""
    if isinstance(steps := document.get("steps"), list):
        for number, step in enumerate(steps):
            name = step.get("class") if isinstance(step, dict) and "registry_name" not in step else None
            if isinstance(name, str) and (found := _foreign_class(name, ("lerobot.",))):
                yield _Named(("steps", number, "class"), found, "LeRobot")
    if "chainer" in document:
        for where, name in _values_of(document, "class_name", containing=":"):
            if found := _foreign_class(name.replace(":", "."), ("deeppavlov.",)):
                yield _Named(where, found, "DeepPavlov")
    model = document.get("model")
    if "dataset_reader" in document or (isinstance(model, dict) and "." in str(model.get("type"))):
        for where, name in _values_of(document, "type", containing="."):
            if found := _foreign_class(name, ("allennlp.", "allennlp_models.", "torch.nn.", "torch.optim.")):
                yield _Named(where, found, "AllenNLP")
    if not document.keys().isdisjoint(("predict_schema", "train_schema")):
        for where, name in _values_of(document, "uses", containing="."):
            if found := _foreign_class(name, ("rasa.",)):
                yield _Named(where, found, "Rasa")


def _values_of(document: MetaNode, key: str, *, containing: str) -> Iterator[tuple[Path, str]]:
    """The strings under `key` anywhere in the document that contain the given text, each with its path."""
    for where, node in objects_in(document):
        name = node.get(key)
        if isinstance(name, str) and containing in name:
            yield (*where, key), name


def _named_files(document: Object, name: str, home: str, files: frozenset[str]) -> Iterator[_Named]:
    """Files of the folder that a document makes its library run, by name or all of them."""
    if name.lower() == "genai_config.json":
        for where, library in _values_of(document, "custom_ops_library", containing=""):
            is_here = library.replace("\\", "/").rpartition("/")[2] in names_of(files)
            yield _Named(where, Opaque(library, "called" if is_here else "object"), "onnxruntime-genai")
    if name.lower() != "configuration.json":
        return
    if document.get("allow_remote"):
        call = _call("modelscope.utils.plugins.import_module_from_model_dir")
        yield _Named(("allow_remote",), call, "ModelScope")
    if plugins := document.get("plugins"):
        yield _Named(("plugins",), _call("pip.main", plugins), "ModelScope")
    metas = document.get("file_path_metas")
    if isinstance(metas, dict):
        for key in ("trust_remote_code", "remote_code"):
            if key in metas:
                yield _Named(("file_path_metas", key), _call("importlib.import_module", metas[key]), "FunASR")
        if f"{home}requirements.txt" in files:
            yield _Named(("file_path_metas",), _call("pip.main", "install", "-r", "requirements.txt"), "FunASR")
