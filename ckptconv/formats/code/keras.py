"""Code that Keras imports or runs because a model's configuration says so. Here it stays text.

The configuration of a ``Lambda`` layer holds Python bytecode: a marshalled code object in base64, from which Keras
makes a function and calls it. Any object may name its module, which is imported; a function in one is called, for
example as an activation.

    Keras 3   {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": …}}}}
    Keras 2   {"class_name": "Lambda", "config": {"function": [code, defaults, closure], "function_type": "lambda"}}
    any       {"module": …, "class_name": …}; for a function {"class_name": "function"}, with its name as "config"
    any       {"class_name": "__typespec__", "module": …, "spec_name": …, "config": […]}, called with these arguments
    any       {"class_name": "StringLookup", "config": {"vocabulary": PATH}}: a file or URL that is read

For the first, Keras 3 asks for ``safe_mode=False``, Keras 2 for nothing. A function may stand in place of a layer, and
is called with what its inbound nodes say. So Python's built-in functions, and those of Keras that are not part of a
model (``keras.utils.get_file``), are reported like any other. Up to Keras 3.8 it need not be marked as a function: a
``class_name`` that is a function's name is enough, whatever `safe_mode` is. Some layers load a file or a pickle
(``TorchModuleWrapper``), or call any TensorFlow function (``TFOpLambda``: ``io.write_file``).

Sources: keras/src/layers/core/lambda_layer.py, keras/src/saving/serialization_lib.py; keras/src/utils/python_utils.py.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, objects_in, spell_path
from ckptconv.core.notes import Program
from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SAVED = "keras_metadata"
CONFIGURATIONS = ("config.json", "model_config", "training_config", SAVED)
"""Where a configuration is: in a .keras archive, in the attributes of an HDF5 file, in a SavedModel."""

_LOADS_CODE = "keras.src.utils.python_utils.func_load"
_OWN = ("keras", "tf_keras", "tensorflow", "builtins")

_PARTS = frozenset(
    [
        "activations", "constraints", "initializers", "losses", "math", "metrics", "nn", "ops", "optimizers", "random",
        "regularizers",
    ]
)  # fmt: skip
"""Modules of Keras and TensorFlow whose functions are parts of models."""

_BETWEEN = frozenset(["_tf_keras", "api", "compat", "keras", "python", "src", "v1", "v2"])

_HARMLESS = frozenset(
    [
        "abs", "all", "any", "max", "min", "pow", "round", "sum", "bool", "bytes", "complex", "dict", "float",
        "frozenset", "int", "list", "range", "set", "slice", "str", "tuple",
    ]
)  # fmt: skip
_CLASS = re.compile(r"_*[A-Z]")
"""How the name of a class begins, unlike a function's."""

_INSTALLED = sys.stdlib_module_names | {"numpy", "torch", "jax"}
_HARMFUL_BUILTINS = frozenset(dir(builtins)) - _HARMLESS

_LOADING = {"TorchModuleWrapper": "torch.load", "TFSMLayer": "tensorflow.saved_model.load"}
"""Layers that load a file when they are constructed."""

_OPERATIONS = re.compile(
    r"(compat\.v[12]\.)?"
    r"((math|nn|linalg|image|strings|signal|sparse|ragged|random|sets|bitwise|dtypes|audio|quantization|__operators__)"
    r"(\.[a-z]\w*)+|(debugging\.)?assert\w*|(?!(py_|numpy_func|load_|print|write_|read_|function))\w+)"
)
"""TensorFlow functions that are parts of models."""

_LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")
"""Layers whose vocabulary may be a file path."""

Path = tuple[object, ...]


def programs_in(metadata: Mapping[object, MetaNode]) -> Iterator[Program]:
    """The programs in the configurations among a file's metadata."""
    for path, node in _all_objects(metadata):
        target = _run_by(node)
        if target is not None:
            yield Program(spell_path(path), target, "Keras")


def findings_in(metadata: Mapping[object, MetaNode]) -> Iterator[Finding]:
    """Files that Keras reads while it loads the model: 3.8 just does, 3.15 asks for ``safe_mode=False``."""
    for path, node in _all_objects(metadata):
        name, config = node.get("class_name"), node.get("config")
        vocabulary = config.get("vocabulary") if isinstance(config, dict) else None
        if isinstance(name, str) and name.rpartition(">")[2] in _LOOKUPS and isinstance(vocabulary, str):
            where = spell_path((*path, "config", "vocabulary"))
            message = f"Keras would read {vocabulary!r} as it loads the model, for the vocabulary of a {name}"
            yield Finding("reads-file", "warning", where, message, found=vocabulary)


def _all_objects(metadata: Mapping[object, MetaNode]) -> Iterator[tuple[Path, dict[str, MetaNode]]]:
    for key in CONFIGURATIONS:
        document = metadata.get(key)
        if isinstance(document, (str, bytes)):
            try:
                document = json.loads(document)
            except (ValueError, RecursionError):  # Keras cannot read it either
                continue
        yield from objects_in(document, (key,))


def _run_by(node: dict[str, MetaNode]) -> Opaque | None:
    """What Keras imports or calls to construct an object; None if that is harmless."""
    name, config, module = node.get("class_name"), node.get("config"), node.get("module")
    if not isinstance(name, str):
        return None
    if name == "__lambda__":
        return Opaque(_LOADS_CODE, "called", (config.get("code") if isinstance(config, dict) else config,))
    if name == "__typespec__":
        if isinstance(module, str) and module.partition(".")[0] == "tensorflow":
            return None
        return Opaque(f"{module}.{node.get('spec_name')}", "called", (config,))
    own_name = name.rpartition(">")[2]
    if own_name in _LOADING:
        return Opaque(_LOADING[own_name], "called", (config,))
    if own_name in ("TFOpLambda", "SlicingOpLambda") and isinstance(config, dict):
        function = config.get("function")
        return None if _OPERATIONS.fullmatch(str(function)) else Opaque(f"tensorflow.{function}", "called")
    if own_name == "Lambda" and isinstance(config, dict):
        return _lambda_function(config)
    if not isinstance(module, str):
        return None
    target = str(config) if name == "function" else name
    is_function = name == "function" or not _CLASS.match(name)
    package = module.partition(".")[0]
    if package in _OWN:
        return Opaque(f"{module}.{target}", "called") if is_function and not _is_model_part(module, target) else None
    return Opaque(f"{module}.{target}", "called" if is_function or package in _INSTALLED else "object")


def _lambda_function(config: dict[str, MetaNode]) -> Opaque | None:
    """What a Lambda layer calls: Python bytecode, or a function by its name."""
    function = config.get("function")
    if isinstance(function, dict) and isinstance(function.get("items"), list):  # a tuple, in a SavedModel
        function = function["items"]
    if isinstance(function, list):
        return Opaque(_LOADS_CODE, "called", tuple(function))
    if isinstance(function, str):
        return Opaque(f"{config.get('module')}.{function}", "called")
    return None


def _is_model_part(module: str, function: str) -> bool:
    """Whether a function of Python, Keras or TensorFlow is one that models are made of."""
    if module == "builtins":  # Keras writes this for its own functions too
        return function not in _HARMFUL_BUILTINS
    rest = [part for part in module.split(".")[1:] if part not in _BETWEEN]
    return not rest or rest[0] in _PARTS
