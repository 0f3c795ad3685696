"""Classes and functions that documents in JSON name, and that the libraries they are for import and call, unasked.

    any object          Hydra, MONAI: "_target_": NAME; Lightning: "class_path". GluonTS: {"__kind__": "instance",
                        "class": NAME, "args": […]}. NeMo 2, by Fiddle: {"type": "pyref", "module": …, "name": …}.
                        MONAI: texts that begin with "$" are Python (`formats.code.monai`)
    {"steps": […]}      LeRobot's processors: {"class": NAME, "config": {…}}, without a "registry_name"
    {"chainer": …}      DeepPavlov: {"class_name": "module:Class"}
    {"dataset_reader"}  AllenNLP: {"type": NAME} wherever an object is made, where the name has a dot
    {"predict_schema"}  Rasa: {"uses": NAME}, a class that is imported
    config.json         Coqui TTS: {"characters_class": NAME}, likewise
    genai_config.json   onnxruntime-genai: {"custom_ops_library": FILE}, a library that is loaded
    configuration.json  ModelScope: "allow_remote": true, for the Python files of the folder, and "plugins", which are
                        installed; FunASR: {"file_path_metas": …}, and the requirements.txt beside it, likewise
    .zarray, zarr.json  zarr: the filter "pickle" of numcodecs, for values of an array; also in .zmetadata

ModelScope 1.40, FunASR 1.4, GluonTS 0.17 and numcodecs 0.16 ask before, or refuse; 1.9, 1.1, 0.14 and 0.13 do not.

Sources: hydra/_internal/instantiate; gluonts/core/serde/_base.py; fiddle/_src/experimental/serialization.py;
lerobot/processor/pipeline.py; deeppavlov/core/common/registry.py; allennlp/common/registrable.py; rasa/engine/graph.py;
TTS/tts/utils/text/tokenizer.py; onnxruntime-genai/src/config.cpp; modelscope/utils/plugins.py, pipelines/builder.py;
funasr/download/download_model_from_hub.py; numcodecs/pickles.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, objects_in, spell_path
from ckptconv.core.notes import Program
from ckptconv.formats.beside.files import names_of
from ckptconv.formats.code import monai
from ckptconv.formats.code.targets import is_librarys, targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ARRAYS = (".zarray", ".zmetadata")
"""Documents of zarr's that are not called as JSON is."""

Path = tuple[object, ...]
Object = dict[str, MetaNode]
_Found = tuple[Path, Opaque, str]

_OF_GLUONTS = ("gluonts.", "mxnet.", "numpy.", "pandas.", "pathlib.", "torch.nn.", "torch.optim.")


def programs_in(path: str, document: MetaNode, files: frozenset[str]) -> Iterator[Program]:
    """What a document says of that. `path`: where it is in the folder that holds `files`."""
    home, _, name = path.rpartition("/")
    for where, node in objects_in(document):
        for key, opaque, by in (*_of_object(node), *_of_array(node, name)):
            yield Program(f"{path}: {spell_path((*where, *key))}", opaque, by)
    for where, text in monai.expressions_in(document):
        yield Program(f"{path}: {spell_path(where)}", Opaque("builtins.eval", "called", (text,)), "MONAI")
    if isinstance(document, dict):
        for key, opaque, by in (*_of_whole(document), *_of_folder(document, name, f"{home}/" if home else "", files)):
            yield Program(f"{path}: {spell_path(key)}", opaque, by)


def _called(name: str, *args: MetaNode) -> Opaque:
    return Opaque(name, "called", args)


def _class(name: str, own: tuple[str, ...]) -> Opaque | None:
    """A class that a library imports and calls: none of its own, which are known."""
    if is_librarys(name):
        return _called(name)
    return None if name.startswith(own) else Opaque(name, "object")


def _of_object(node: Object) -> Iterator[_Found]:
    """What any object of any document may say."""
    yield from targets_of(node)
    name = node.get("class")
    if isinstance(node.get("__kind__"), str) and isinstance(name, str) and (made := _class(name, _OF_GLUONTS)):
        yield ("class",), made, "GluonTS"
    name = node.get("characters_class")
    if isinstance(name, str) and "." in name and (made := _class(name, ("TTS.",))):
        yield ("characters_class",), made, "Coqui TTS"
    module, name = node.get("module"), node.get("name")
    if node.get("type") == "pyref" and is_librarys(f"{module}.{name}"):
        yield ("name",), _called(f"{module}.{name}"), "NeMo"


def _of_array(node: Object, file: str) -> Iterator[_Found]:
    if file not in (*ARRAYS, "zarr.json"):
        return
    for key in ("id", "name"):
        if node.get(key) in ("pickle", "numcodecs.pickle"):
            yield (key,), _called("pickle.loads"), "zarr"


def _of_whole(document: Object) -> Iterator[_Found]:
    """What documents that are of one library by one of their keys say."""
    if isinstance(steps := document.get("steps"), list):
        for number, step in enumerate(steps):
            name = step.get("class") if isinstance(step, dict) and "registry_name" not in step else None
            if isinstance(name, str) and (made := _class(name, ("lerobot.",))):
                yield ("steps", number, "class"), made, "LeRobot"
    if "chainer" in document:
        for where, name in _said(document, "class_name", ":"):
            if made := _class(name.replace(":", "."), ("deeppavlov.",)):
                yield where, made, "DeepPavlov"
    model = document.get("model")
    if "dataset_reader" in document or (isinstance(model, dict) and "." in str(model.get("type"))):
        for where, name in _said(document, "type", "."):
            if made := _class(name, ("allennlp.", "allennlp_models.", "torch.nn.", "torch.optim.")):
                yield where, made, "AllenNLP"
    if not document.keys().isdisjoint(("predict_schema", "train_schema")):
        for where, name in _said(document, "uses", "."):
            if made := _class(name, ("rasa.",)):
                yield where, made, "Rasa"


def _said(document: MetaNode, key: str, mark: str) -> Iterator[tuple[Path, str]]:
    """Each text under a key that has a mark in it, as the name of a class has."""
    for where, node in objects_in(document):
        name = node.get(key)
        if isinstance(name, str) and mark in name:
            yield (*where, key), name


def _of_folder(document: Object, name: str, home: str, files: frozenset[str]) -> Iterator[_Found]:
    """What names files of the folder, or means all of them."""
    if name.lower() == "genai_config.json":
        for where, library in _said(document, "custom_ops_library", ""):
            is_here = library.replace("\\", "/").rpartition("/")[2] in names_of(files)
            yield where, Opaque(library, "called" if is_here else "object"), "onnxruntime-genai"
    if name.lower() != "configuration.json":
        return
    if document.get("allow_remote"):
        yield ("allow_remote",), _called("modelscope.utils.plugins.import_module_from_model_dir"), "ModelScope"
    if plugins := document.get("plugins"):
        yield ("plugins",), _called("pip.main", plugins), "ModelScope"
    metas = document.get("file_path_metas")
    if isinstance(metas, dict):
        for key in ("trust_remote_code", "remote_code"):
            if key in metas:
                yield ("file_path_metas", key), _called("importlib.import_module", metas[key]), "FunASR"
        if f"{home}requirements.txt" in files:
            yield ("file_path_metas",), _called("pip.main", "install", "-r", "requirements.txt"), "FunASR"
