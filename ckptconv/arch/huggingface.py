"""Builds the class that a Hugging Face ``config.json`` names with the installed transformers; for classes of diffusers,
`ckptconv.arch.diffusers` does it.

The configuration is data, possibly from a stranger: it chooses one of transformers' own classes and fills in its
configuration. Whatever would fetch or run something else is left out of it: its own code (``auto_map``), kernels,
pretrained backbones. transformers stays offline.

A file that ``save_pretrained`` wrote may have other names than the class, such as a tensor for each expert where the
class has one for all. transformers itself is asked for those names, and to convert between the two.

Source: transformers/configuration_utils.py, modeling_utils.py, core_model_loading.py (5.0 and later).
"""

from __future__ import annotations

import importlib
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptconv.arch import diffusers
from ckptconv.arch.statements import CLASS_NAME, quantization_method
from ckptconv.arch.table import Expected, state_table
from ckptconv.arch.weights import tied_in
from ckptconv.core import strict_json
from ckptconv.errors import CorruptFileError, LimitError, MissingExtraError, UsageError, located
from ckptconv.io.limits import MAX_CONFIG
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager

    import torch

    from ckptconv.arch.table import Table
    from ckptconv.core.tensor import TensorInfo

MAX_LAYERS = 10_000

MAX_CALLS = 300_000
"""The most calls of torch's functions while a class is built; each tensor takes one or a few."""

_LAYERS = re.compile(r"(n|num)_(\w+_)?(layers?|blocks?|experts)|\w+_layers|(\w+_)?depths?")

OLDEST = 5
"""The oldest major version of transformers that can tell which names it writes to disk."""

_OMITTED_KEYS = re.compile(
    r"_?(attn|experts)_implementation(_internal)?|use_kernels|auto_map|use_pretrained_backbone|_name_or_path"
    r"|(torch_)?dtype|quantization|quantization_config|compression_config"
)
"""Keys that say where to get code or weights, how to compute, or that weights are quantized. Without them, the class is
the same, with the names and shapes that it had before quantization.
"""

_FLOATS = ("NaN", "Infinity", "-Infinity")

_PLAIN_OPERATORS = {"attn_implementation": "eager", "experts_implementation": "eager"}
"""Compute with torch's plain operators, which take float64 and which an exporter understands."""

_MODEL_FILES = "name the config.json that lies beside the model's weights"

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def is_config(reference: str) -> bool:
    """Whether ``--arch`` is a configuration: a JSON file that is not an index of shards."""
    return reference.endswith(".json") and not reference.endswith(".index.json")


def refuse_quantized(reference: str, module: torch.nn.Module, names: AbstractSet[str]) -> None:
    """Raise UsageError if the configuration says that the weights are quantized, and they are."""
    method = ConfigFactory(Path(reference)).quantized
    if method and not _has_own_names(module, names) and not has_names_of_disk(module, names):
        raise UsageError(
            f"the weights are quantized ({method!r}), under names that the class does not have",
            hint="ckptconv convert --dequantize makes plain ones",
        )


class ConfigFactory:
    """Makes the module that a ``config.json`` describes; call it with changes of the configuration's values."""

    def __init__(self, path: Path) -> None:
        """Read the configuration. Raises FileAccessError, CorruptFileError, LimitError, with the path."""
        with Source(path) as source:
            data = source.read_all(MAX_CONFIG)
        with located(path):
            whole = strict_json.document(data, "it", hint=_MODEL_FILES)
            strict_json.check_depth(whole, "it")
            document = _without_omitted(whole)
        if not isinstance(document, dict) or not {"architectures", "model_type", CLASS_NAME} & document.keys():
            raise CorruptFileError("it is not a configuration of a Hugging Face model", path=path, hint=_MODEL_FILES)
        self.config: dict[str, Any] = document
        self.quantized = quantization_method(whole)
        self.package = diffusers.PACKAGE if CLASS_NAME in document else "transformers"

    def __call__(self, **changes: object) -> torch.nn.Module:
        """The module, on torch's current device. Raises MissingExtraError, UsageError, and what the package raises."""
        if self.package == diffusers.PACKAGE:
            with _offline():
                return diffusers.build(self.config, changes)
        config = {**self.config, **changes}
        with _offline():
            try:
                transformers: Any = importlib.import_module("transformers")
            except ModuleNotFoundError as error:
                raise MissingExtraError("transformers", "transformers") from error
            if int(transformers.__version__.partition(".")[0]) < OLDEST:
                raise UsageError(
                    f"transformers {transformers.__version__} is too old", hint=f"pip install 'transformers>={OLDEST}'"
                )
            transformers.logging.set_verbosity_error()
            transformers.logging.disable_progress_bar()
            cls = _class_of(transformers, config)
            known = dir(cls.config_class()) if changes.keys() - self.config.keys() else ()
            for name in changes.keys() - self.config.keys() - set(known):
                near = get_close_matches(name, {*self.config, *known}, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "its keys are those of the config.json"
                raise UsageError(f"{cls.__name__} has no {name!r} to set", hint=hint)
            result = cls.config_class.from_dict({**config, "use_cache": False})
            with _count_limited():
                module: torch.nn.Module = cls._from_config(result, **_PLAIN_OPERATORS)
            return module


def disk_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What ``save_pretrained`` would write of the module, before tied tensors are left out."""
    state: dict[str, torch.Tensor] = module.state_dict(keep_vars=True)
    if diffusers.is_diffusers_module(module):
        return dict(state)
    loading: Any = importlib.import_module("transformers.core_model_loading")
    return dict(loading.revert_weight_conversion(module, dict(state)))


def table_of(module: torch.nn.Module, found: Mapping[str, TensorInfo]) -> Table:
    """What a checkpoint with tensors such as `found` has to hold.

    These are the class's own names, or those that ``save_pretrained`` writes, whichever more of them match. Tensors
    that the class's loader does not need, or ignores, are optional.
    """
    states = (module.state_dict(keep_vars=True), disk_state(module))
    nearer = max(states, key=lambda state: len(state.keys() & found.keys()))
    package = diffusers.PACKAGE if diffusers.is_diffusers_module(module) else "transformers"
    table = state_table(nearer, f"{package}.{type(module).__name__}", {})
    for name in _matching(module, "_keys_to_ignore_on_load_missing", table.tensors):
        table.tensors[name] = replace(table.tensors[name], optional=True)
    for name in _matching(module, "_keys_to_ignore_on_load_unexpected", found.keys() - table.tensors.keys()):
        table.tensors[name] = Expected((None,) * len(found[name].shape), optional=True)
    return table


def _matching(module: torch.nn.Module, attribute: str, names: Iterable[str]) -> list[str]:
    patterns = [re.compile(text) for text in getattr(module, attribute, None) or ()]
    return [name for name in names if any(pattern.search(name) for pattern in patterns)]


def _has_own_names(module: torch.nn.Module, names: AbstractSet[str]) -> bool:
    """Whether these are the names that the class has, except for tied ones."""
    return module.state_dict().keys() == names | tied_in(module, names).keys()


def has_names_of_disk(module: torch.nn.Module, names: AbstractSet[str]) -> bool:
    """Whether these are names that ``save_pretrained`` writes, while the class has others."""
    return not _has_own_names(module, names) and names <= disk_state(module).keys()


def held_names(module: torch.nn.Module) -> dict[str, str]:
    """Name on disk → the class's name; {} if some tensors are stacked or split when they are saved."""
    held: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        held.setdefault(id(tensor), []).append(name)
    names: dict[str, str] = {}
    for name, tensor in disk_state(module).items():
        left = held.get(id(tensor))
        if not left:
            return {}
        names[name] = left.pop(0)  # tied ones keep their order
    return names


def as_held(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the class's names, as ``from_pretrained`` converts them.

    Tensors that have these names already are returned as they are. Raises RuntimeError if they do not fit.
    """
    if _has_own_names(module, tensors.keys()) or diffusers.is_diffusers_module(module):
        return dict(tensors)
    cls: Any = type(module)
    with _offline():
        result, report = cls.from_pretrained(
            None, config=module.config, state_dict=dict(tensors), dtype="auto", output_loading_info=True
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if report[what]:
            raise RuntimeError(f"{what.replace('_', ' ')}: {', '.join(sorted(map(str, report[what])))}")
    return dict(result.state_dict())


def _class_of(transformers: Any, config: Mapping[str, Any]) -> Any:
    """One of transformers' own model classes. Raises UsageError."""
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if name is None:
        bare: Any = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_MAPPING_NAMES
        kind = config.get("model_type")
        name = bare.get(kind, kind) if isinstance(kind, str) else None
    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise UsageError(
            f"transformers {transformers.__version__} has no model {name!r}",
            hint="a newer one may have it; code of the model's own is --arch models.py:Net",
        )
    return cls


def _count_limited() -> AbstractContextManager[object]:
    """A context in which torch's functions are counted, and LimitError is raised for more than any model needs."""
    from torch.overrides import TorchFunctionMode

    class Counted(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            if self.calls > MAX_CALLS:
                raise LimitError("its class would have more tensors than any model has")
            return function(*args, **(kwargs or {}))

    return Counted()


def _without_omitted(value: Any) -> Any:
    """The configuration and those inside it, without omitted keys. Floats that JSON lacks are read as written."""
    if isinstance(value, list):
        return [_without_omitted(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("__float__") in _FLOATS and len(value) == 1:
        return float(value["__float__"])
    for key, item in value.items():
        counts = [count for count in (item if isinstance(item, list) else [item]) if isinstance(count, int)]
        most = max(counts, default=0)
        if most > MAX_LAYERS and _LAYERS.fullmatch(key):
            raise LimitError(f"it asks for {most:,} of {key}")
    return {key: _without_omitted(item) for key, item in value.items() if not _OMITTED_KEYS.fullmatch(key)}


@contextmanager
def _offline() -> Iterator[None]:
    before = {key: os.environ.get(key) for key in _OFFLINE}
    os.environ.update(_OFFLINE)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
