"""What Keras would import or run of a model's configuration, as it loads the model. Here it stays text.

A ``Lambda`` layer is Python: its configuration has the bytes of a code object, as ``marshal`` writes them, in base64,
which Keras makes a function of and calls. Any object may name its module, which is then imported; a function of one is
called, as an activation for example.

    Keras 3   {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": …}}}}
    Keras 2   {"class_name": "Lambda", "config": {"function": [code, defaults, closure], "function_type": "lambda"}}
    any       {"module": …, "class_name": …}; of a function, whose name is its config, {"class_name": "function"}
    any       {"class_name": "__typespec__", "module": …, "spec_name": …, "config": […]}, which is called with these
    any       {"class_name": "StringLookup", "config": {"vocabulary": PATH}}: a file that is read, or an address

Keras 3 asks for ``safe_mode=False`` before it does the first, Keras 2 for nothing. A function may stand where a layer
does, and is called with what its inbound nodes say: so that Python's built-in ones, and Keras' that are not parts of a
model (``keras.utils.get_file``), are told like anyone's. Up to Keras 3.8 it need not be said to be a function: a
``class_name`` that is one's name is enough, whatever `safe_mode`. Some layers load a file or a pickle
(``TorchModuleWrapper``), or call any function of TensorFlow's (``TFOpLambda``: ``io.write_file``).

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
"""Where one stands: in an archive, in the attributes of a file of HDF5, and in a SavedModel."""

_LOADS_CODE = "keras.src.utils.python_utils.func_load"
_OWN = ("keras", "tf_keras", "tensorflow", "builtins")

_PARTS = frozenset(
    [
        "activations", "constraints", "initializers", "losses", "math", "metrics", "nn", "ops", "optimizers", "random",
        "regularizers",
    ]
)  # fmt: skip
"""Modules of Keras' and TensorFlow's whose functions a model is made of."""

_BETWEEN = frozenset(["_tf_keras", "api", "compat", "keras", "python", "src", "v1", "v2"])

_HARMLESS = frozenset(
    [
        "abs", "all", "any", "max", "min", "pow", "round", "sum", "bool", "bytes", "complex", "dict", "float",
        "frozenset", "int", "list", "range", "set", "slice", "str", "tuple",
    ]
)  # fmt: skip
_CLASS = re.compile(r"_*[A-Z]")
"""How the name of a class begins; those of functions do not."""

_LIBRARY = sys.stdlib_module_names | {"numpy", "torch", "jax"}
_RUNNING = frozenset(dir(builtins)) - _HARMLESS

_LOADING = {"TorchModuleWrapper": "torch.load", "TFSMLayer": "tensorflow.saved_model.load"}
"""Layers that load something when they are made."""

_OPERATIONS = re.compile(
    r"(compat\.v[12]\.)?"
    r"((math|nn|linalg|image|strings|signal|sparse|ragged|random|sets|bitwise|dtypes|audio|quantization|__operators__)"
    r"(\.[a-z]\w*)+|(debugging\.)?assert\w*|(?!(py_|numpy_func|load_|print|write_|read_|function))\w+)"
)
"""Functions of TensorFlow's that models are made of."""

_LOOKUPS = ("StringLookup", "IntegerLookup", "TextVectorization")
"""Layers whose vocabulary may be the path of a file."""

Path = tuple[object, ...]


def programs_in(metadata: Mapping[object, MetaNode]) -> Iterator[Program]:
    """What the configurations in a file's metadata have of that."""
    for path, node in _all_objects(metadata):
        program = _program(node)
        if program is not None:
            yield Program(spell_path(path), program, "Keras")


def findings_in(metadata: Mapping[object, MetaNode]) -> Iterator[Finding]:
    """The files that Keras would read as it loads the model: 3.8 does, 3.15 asks for ``safe_mode=False``."""
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
            except (ValueError, RecursionError):  # Keras would not read it either
                continue
        yield from objects_in(document, (key,))


def _program(node: dict[str, MetaNode]) -> Opaque | None:
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
        return _of_lambda(config)
    if not isinstance(module, str):
        return None
    target = str(config) if name == "function" else name
    runs = name == "function" or not _CLASS.match(name)
    if module.partition(".")[0] in _OWN:
        return Opaque(f"{module}.{target}", "called") if runs and not _is_part(module, target) else None
    return Opaque(f"{module}.{target}", "called" if runs or module.partition(".")[0] in _LIBRARY else "object")


def _of_lambda(config: dict[str, MetaNode]) -> Opaque | None:
    """What a Lambda layer calls: Python's bytecode, or a function by its name."""
    function = config.get("function")
    if isinstance(function, dict) and isinstance(function.get("items"), list):  # a tuple, in a SavedModel
        function = function["items"]
    if isinstance(function, list):
        return Opaque(_LOADS_CODE, "called", tuple(function))
    if isinstance(function, str):
        return Opaque(f"{config.get('module')}.{function}", "called")
    return None


def _is_part(module: str, function: str) -> bool:
    """Whether a function of Python's, Keras' or TensorFlow's is one that a model is made of."""
    if module == "builtins":  # what Keras writes for its own as well
        return function not in _RUNNING
    rest = [part for part in module.split(".")[1:] if part not in _BETWEEN]
    return not rest or rest[0] in _PARTS
