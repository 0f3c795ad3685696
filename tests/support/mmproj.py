"""Small models with image or audio towers: what llama.cpp's converter made from them, and how to write folders."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Callable

Arrays = dict[str, np.ndarray[Any, Any]]

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "others" / "llama-cpp-mmproj.json").read_text("utf-8")
)
BREAK = 12
"""The token id of [IMG_BREAK] in all of them."""

_NESTED = "vision_tower.vision_model."


def expanded(found: dict[str, Any]) -> dict[str, Any]:
    """Expand the names with ``{}``, which are written once for all layer numbers."""
    rows = (
        [(name.replace("{}", str(number)), value[1]) for number in range(value[0])] if "{}" in name else [(name, value)]
        for name, value in found.items()
    )
    return dict(chain.from_iterable(rows))


def state(case: str) -> Arrays:
    """The weights of a model, under the names in released files."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, "f4") for name, shape in expanded(CASES[case]["source"]).items()}


def as_transformers_5_writes(name: str) -> str:
    """A released name in the layout of transformers 5's files."""
    return name.removeprefix("model.").replace(_NESTED, "vision_tower.") if "vision_tower" in name else name


def as_the_class_has(name: str) -> str:
    """A released name in the layout of transformers' classes."""
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.")
    outside = ("model.", "lm_head.", "mlp1.")
    return name if name.startswith(outside) else f"model.{name.replace(_NESTED, 'vision_tower.')}"


LAYOUTS: dict[str, Callable[[str], str]] = {
    "released": str,
    "transformers 5": as_transformers_5_writes,
    "class": as_the_class_has,
}


def folder_of(case: str, path: Path, weights: Arrays | None = None, **changed: Any) -> Path:
    """Write the folder of a model. `changed`: entries of its configuration; None removes one."""
    path.mkdir(exist_ok=True)
    save_file(weights or state(case), path / "model.safetensors")
    config = {key: value for key, value in (CASES[case]["config"] | changed).items() if value is not None}
    added = {"added_tokens_decoder": {str(BREAK): {"content": "[IMG_BREAK]"}}}
    documents = {"config": config, "preprocessor_config": CASES[case]["preprocessor"], "tokenizer_config": added}
    for name, document in documents.items():
        (path / f"{name}.json").write_text(json.dumps(document), "utf-8")
    return path
