"""How a real model class is built on torch's meta device from a small configuration, and what its headers are."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckptconv.core.dtypes import DTYPES
from ckptconv.core.tensor import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

torch = pytest.importorskip("torch", reason="the oracle is torch")

DTYPE_NAMES = {
    torch.float32: "F32", torch.int64: "I64", torch.float16: "F16", torch.bool: "BOOL", torch.uint8: "U8",
    torch.float64: "F64",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """A model: the spec that it belongs to, how to build it, and its configuration or params where they are stated.

    thorough: whether each of its tensors is changed in turn, which takes seconds; one of each kind is enough.
    """

    spec: str
    name: str
    build: Callable[[], Any]
    config: Callable[[], dict[str, Any]] | None = None
    params: Mapping[Any, Any] = field(default_factory=dict, hash=False)
    thorough: bool = True

    def __str__(self) -> str:
        return f"{self.spec}-{self.name}"


def infos(state_dict: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """The headers of a state_dict's tensors."""
    return {
        name: TensorInfo.of(DTYPES[DTYPE_NAMES[tensor.dtype]], tuple(tensor.shape))
        for name, tensor in state_dict.items()
    }


def aliases(module: Any) -> dict[str, int]:
    """Equal for names that share a parameter."""
    return {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}


@cache
def built(case: Case) -> Any:
    """The module, on the meta device."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return case.build()


@cache
def torchvision_operators() -> Any:
    """Define the operators without which torchvision's Python, which transformers imports too, fails on a CPU torch.

    Where its own library loads, it brings them: torch ends the process when an operator is defined twice.
    """
    package = importlib.util.find_spec("torchvision")
    for compiled in Path(package.origin).parent.glob("_C*.*") if package and package.origin else ():
        with suppress(OSError):  # it is for another build of torch
            torch.ops.load_library(compiled)
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # kept by the cache: a Library takes its operators back when it is collected


@cache
def torchvision_models() -> Any:
    """torchvision's models."""
    torchvision_operators()
    for package in ("PIL", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchvision.models")


def transformers_module() -> Any:
    """transformers, quiet."""
    torchvision_operators()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.logging.set_verbosity_error()
    return transformers


def diffusers_module() -> Any:
    """diffusers, quiet."""
    torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
        importlib.import_module("diffusers.models.transformers")
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def _transformer(class_name: str, config_name: str, /, **options: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def config() -> Any:
        return getattr(transformers_module(), config_name)(**options)

    def build() -> Any:
        made = config()
        return getattr(transformers_module(), class_name)(made)

    def stated() -> dict[str, Any]:
        return {**config().to_dict(), "architectures": [class_name]}

    return build, stated


def hugging(spec: str, class_name: str, config_name: str, /, label: str = "", **options: Any) -> Case:
    build, stated = _transformer(class_name, config_name, **options)
    return Case(spec, f"{class_name}{label and f'-{label}'}", build, stated)


def torchvision(spec: str, name: str, /, **options: Any) -> Case:
    def build() -> Any:
        return getattr(torchvision_models(), name)(**options)

    label = ",".join(f"{key}={value}" for key, value in options.items())
    return Case(spec, f"{name}{label and f'({label})'}", build)


def timm_model(name: str, /, **options: Any) -> Any:
    """A model of timm's."""
    torchvision_models()
    return pytest.importorskip("timm", reason="timm is not installed").create_model(name, **options)


def timm(spec: str, name: str, /, **options: Any) -> Case:
    """A model of timm's, made smaller by options of its class."""

    def build() -> Any:
        return timm_model(name, **options)

    label = ",".join(f"{key}={value}" for key, value in options.items())
    return Case(spec, f"{name}({label})", build)


def decoder_sizes(**more: Any) -> list[dict[str, Any]]:
    """Three sizes of a decoder."""
    rows = [(97, 24, 40, 1, 4, 2), (120, 32, 56, 3, 8, 2), (131, 48, 88, 2, 6, 6)]
    keys = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads",
    )  # fmt: skip
    return [dict(zip(keys, row, strict=True)) | more for row in rows]


def encoder_sizes(**more: Any) -> list[dict[str, Any]]:
    """Three sizes of an encoder."""
    rows = [(97, 24, 40, 1, 4, 33), (120, 32, 56, 3, 8, 50), (131, 48, 88, 2, 6, 21)]
    keys = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings",
    )  # fmt: skip
    return [dict(zip(keys, row, strict=True)) | more for row in rows]
