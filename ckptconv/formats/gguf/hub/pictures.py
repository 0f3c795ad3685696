"""What configurations say of a tower for pictures, as llama.cpp's hyperparameters (``clip.``), by its projector.

llama.cpp computes each projector in one way, but for its sizes and its activation: a configuration that says something
else is refused by name, as the file would load, and compute something else. How pictures are scaled and cut before
that, llama.cpp's own code says, and the preprocessor's document their mean, their deviation and their largest edge.

Sources: llama.cpp's conversion/ (`set_gguf_parameters` of MmprojModel and what inherits from it; of `mlp`,
tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py), tools/mtmd/clip.cpp (`load_hparams`), tools/mtmd/models/
(what each computes); of what configurations leave out, transformers' configuration_*.py.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_projectors import VISION
from ckptconv.edits.dialects.to_mmproj import deepstack, feature_layers
from ckptconv.formats.gguf.hub.config import Config
from ckptconv.formats.gguf.hub.documents import bad

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.formats.gguf.hub.tower import Said
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu")
_TANH = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 16, **_TANH,
}  # fmt: skip
_QWEN = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
PICTURE_UNSAID: Mapping[str, Mapping[str, Any]] = {
    "gemma3": _SIGLIP,
    "idefics3": {
        **_SIGLIP, "hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32,
    },
    "internvl": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 448, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    },
    "llama4": {
        "hidden_size": 768, "intermediate_size": 5632, "num_hidden_layers": 34, "num_attention_heads": 16,
        "image_size": 448, "patch_size": 14, "hidden_act": "gelu", "norm_eps": 1e-5, "pixel_shuffle_ratio": 0.5,
    },
    "mlp": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    },
    "pixtral": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 1024, "patch_size": 16, "hidden_act": "gelu",
    },
    "qwen2vl_merger": {**_QWEN, "embed_dim": 1280, "hidden_size": 3584, "hidden_act": "quick_gelu"},
    "qwen2.5vl_merger": {
        **_QWEN, "hidden_size": 3584, "intermediate_size": 3420, "hidden_act": "silu", "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "qwen3vl_merger": {
        **_QWEN, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 16,
        "num_position_embeddings": 2304, "hidden_act": "gelu_pytorch_tanh",
    },
}  # fmt: skip
"""What configurations leave out where it is what transformers' class takes by itself."""

_QWEN_PICTURE = 560
"""llama.cpp's converter says so of Qwen's, which take pictures of any size."""

_QWEN_EPSILON = 1e-6
"""transformers' classes have it in their code, as Pixtral's its own."""
_PIXTRAL_EPSILON = 1e-5
_QWEN_WINDOW = 112
_ROTARY_BASE = 10000.0
_MERGED = 2
_GEMMA_POOLED = 4
_MOST_LAYERS = 10_000
_RMS_TOWER = 3200, 45
"""The width and the layers by which llama.cpp knows the one tower of InternVL's with RMS norms."""


def picture_entries(said: Said) -> Entries:
    """The entries of one projector's tower, but for what is said of pictures before it. Raises CorruptFileError,
    EditError, UnsupportedError.
    """
    own, tower = OWN[said.projector](said), said.tower
    depth = ("depth",) if said.projector.startswith("qwen") else ("num_hidden_layers",)
    heads = ("num_heads",) if said.projector.startswith("qwen") else ("num_attention_heads",)
    found: Entries = {
        "clip.projector_type": ("string", said.projector),
        "clip.has_vision_encoder": ("bool", True),
        "clip.vision.block_count": ("uint32", tower.positive(*depth)),
        "clip.vision.attention.head_count": ("uint32", tower.positive(*heads)),
        "clip.vision.patch_size": ("uint32", said.side("patch_size")),
    }
    for key, name in (("hidden_size", "embedding_length"), ("intermediate_size", "feed_forward_length")):
        if f"vision.{name}" not in own:
            found[f"clip.vision.{name}"] = ("uint32", tower.positive(key))
    if "vision.image_size" not in own:
        found["clip.vision.image_size"] = ("uint32", said.side("image_size"))
    return found | {f"clip.{key}": value for key, value in own.items()}


def _epsilon(value: float) -> Entries:
    return {"vision.attention.layer_norm_epsilon": ("float32", value)}


def _gelu_or_silu(said: Said) -> Entries:
    return {"use_silu" if said.activation("gelu", "silu") == "silu" else "use_gelu": ("bool", True)}


def _inverse(said: Said, config: Config, key: str, default: float) -> int:
    """How many patches of a row become one, where the configuration says the inverse of it."""
    ratio = config.number(key, default=default)
    count = round(1 / ratio) if 0 < ratio <= 1 else 0
    if not count or count * ratio != 1:
        raise said.unlike(key, ratio, "it is 1, 1/2, 1/4, …")
    return count


def _gemma3(said: Said) -> Entries:
    said.activation(*_GELUS)
    tokens = said.whole.get("mm_tokens_per_image") or said.preprocessor.get("image_seq_length") or 256
    tokens = Config({"mm_tokens_per_image": tokens}).positive("mm_tokens_per_image")
    row, patches = isqrt(tokens), said.side("image_size") // said.side("patch_size")
    pooled = patches // row
    if row * row != tokens or not pooled or pooled * row != patches:
        raise said.unlike("mm_tokens_per_image", tokens, f"squares of {patches} × {patches} patches are pooled")
    found: Entries = {"use_gelu": ("bool", True), **_epsilon(said.tower.number("layer_norm_eps"))}
    return found | ({} if pooled == _GEMMA_POOLED else {"vision.projector.scale_factor": ("uint32", pooled)})


def _idefics3(said: Said) -> Entries:
    said.activation(*_GELUS)
    size = said.preprocessor.get("size")
    edge = size.get("longest_edge") if isinstance(size, dict) else None
    edge = said.side("image_size") if edge is None else Config({"longest_edge": edge}).positive("longest_edge")
    return {
        "use_gelu": ("bool", True), **_epsilon(said.tower.number("layer_norm_eps")),
        "vision.projector.scale_factor": ("uint32", said.whole.positive("scale_factor", default=2)),
        "vision.preproc_image_size": ("uint32", edge),
    }  # fmt: skip


def _internvl(said: Said) -> Entries:
    rms = said.tower.text("norm_type", default="layer_norm") == "rms_norm"
    large = (said.tower.width, said.tower.layers) == _RMS_TOWER
    if rms != large:
        raise said.unlike("norm_type", said.tower.get("norm_type"), "the tower of 3,200 × 45 alone has RMS norms")
    said.check("use_absolute_position_embeddings", True, "positions are added")
    said.check("use_mean_pooling", True, "there is no norm behind the last layer")
    for key in ("vision_feature_layer", "select_layer"):
        said.check(key, -1, "it takes the outputs of the last layer")
    said.check("ps_version", "v2", "patches are merged as in v2")
    said.check("projector_hidden_act", "gelu", "its projector computes with gelu")
    found = _gelu_or_silu(said) | _epsilon(said.tower.number("layer_norm_eps"))
    found["vision.projector.scale_factor"] = ("uint32", _inverse(said, said.whole, "downsample_ratio", 0.5))
    for key, name in (("min_dynamic_patch", "preproc_min_tiles"), ("max_dynamic_patch", "preproc_max_tiles")):
        if count := said.whole.integer(key, default=0):
            found[f"vision.{name}"] = ("uint32", count)
    return found


def _llama4(said: Said) -> Entries:
    said.activation("gelu")
    said.check("vision_feature_layer", -1, "it takes the outputs of the last layer")
    said.check("vision_feature_select_strategy", "default", "the first of its outputs, the class's, is left out")
    said.check("multi_modal_projector_bias", False, "its projector has no bias")
    _check_rotary(said)
    return {
        "use_gelu": ("bool", True), **_epsilon(said.tower.number("norm_eps")),
        "vision.projector.scale_factor": ("uint32", _inverse(said, said.tower, "pixel_shuffle_ratio", 0.5)),
    }  # fmt: skip


def _mlp(said: Said) -> Entries:
    """LLaVA 1.5: a tower of CLIP's, and one of its last layers."""
    said.check("projector_hidden_act", "gelu", "its projector computes with gelu")
    said.check("vision_feature_select_strategy", "default", "the first of its outputs, the class's, is left out")
    layers = feature_layers({VISION: said.tower.values, **said.whole.values} | {VISION: said.tower.values})
    found = {} if said.activation("quick_gelu", "gelu") == "quick_gelu" else {"use_gelu": ("bool", True)}
    return {
        **found, **_epsilon(said.tower.number("layer_norm_eps")),
        "has_llava_projector": ("bool", True),
        "vision.block_count": ("uint32", layers),
        "vision.feature_layer": ("int32[]", [layers]),
    }  # fmt: skip


def _pixtral(said: Said) -> Entries:
    mistral = said.named == "Mistral3ForConditionalGeneration"
    layer, taken = (-1, "full") if mistral else (-2, "default")
    layer = layer if said.whole.get("vision_feature_layer") is None else said.whole.get("vision_feature_layer")
    if layer != -1:
        raise said.unlike("vision_feature_layer", layer, "it takes the outputs of the last layer")
    if said.whole.text("vision_feature_select_strategy", default=taken) != "full":
        raise said.unlike("vision_feature_select_strategy", "default", "all outputs are taken: no class comes first")
    said.check("projector_hidden_act", "gelu", "its projector computes with gelu")
    heads = said.tower.heads
    if said.tower.head_width * heads != said.tower.width:
        raise said.unlike("head_dim", said.tower.head_width, f"it has {heads} heads in {said.tower.width}")
    _check_rotary(said)
    found = _gelu_or_silu(said) | _epsilon(_PIXTRAL_EPSILON)
    if mistral:
        found["vision.spatial_merge_size"] = ("uint32", said.whole.positive("spatial_merge_size", default=2))
    return found


def _check_rotary(said: Said) -> None:
    base = said.tower.rope().get("rope_theta", _ROTARY_BASE)
    if base != _ROTARY_BASE:
        raise said.unlike("rope_theta", base, f"heads are turned by {_ROTARY_BASE:,.0f}")


def _qwen(said: Said) -> Entries:
    """What all of Qwen's have alike."""
    said.check("spatial_merge_size", _MERGED, "2 × 2 patches become one")
    said.check("temporal_patch_size", _MERGED, "a picture is two frames")
    for key in ("in_channels", "in_chans"):
        said.check(key, 3, "pictures have three colours")
    return {"vision.image_size": ("uint32", _QWEN_PICTURE), **_epsilon(_QWEN_EPSILON)}


def _qwen2(said: Said) -> Entries:
    said.activation("quick_gelu")
    return {
        **_qwen(said), "vision.embedding_length": ("uint32", said.tower.positive("embed_dim")),
        "vision.feed_forward_length": ("uint32", said.tower.positive("hidden_size")),
    }  # fmt: skip


def _qwen25(said: Said) -> Entries:
    said.activation("silu")
    said.check("window_size", _QWEN_WINDOW, f"windows are of {_QWEN_WINDOW} pixels")
    whole = said.tower.items("fullatt_block_indexes") or []
    period = whole[0] + 1 if whole and type(whole[0]) is int else 0
    layers = said.tower.positive("depth")
    if period < 1 or layers > _MOST_LAYERS or whole != list(range(period - 1, layers, period)):
        raise said.unlike("fullatt_block_indexes", whole, "of so many layers, the last attends to all")
    return {**_qwen(said), "use_silu": ("bool", True), "vision.n_wa_pattern": ("uint32", period)}


def _qwen3(said: Said) -> Entries:
    said.activation(*_GELUS)
    count, layers = said.tower.positive("num_position_embeddings"), said.tower.positive("depth")
    deep = deepstack(said.tower.values)
    if isqrt(count) ** 2 != count:
        raise said.unlike("num_position_embeddings", count, "they are a square")
    if layers > _MOST_LAYERS or any(type(one) is not int or not 0 <= one < layers for one in deep):
        raise bad(f"{CONFIG}: deepstack_visual_indexes is {str(deep)[:40]!r}, and no list of {layers} layers")
    return {
        **_qwen(said), "use_gelu": ("bool", True),
        "vision.image_size": ("uint32", isqrt(count) * said.side("patch_size")),
        "vision.spatial_merge_size": ("uint32", _MERGED),
        "vision.is_deepstack_layers": ("bool[]", [layer in deep for layer in range(layers)]),
    }  # fmt: skip


OWN: Mapping[str, Callable[[Said], Entries]] = {
    "gemma3": _gemma3, "idefics3": _idefics3, "internvl": _internvl, "llama4": _llama4, "mlp": _mlp,
    "pixtral": _pixtral, "qwen2vl_merger": _qwen2, "qwen2.5vl_merger": _qwen25, "qwen3vl_merger": _qwen3,
}  # fmt: skip
"""What is asked of each besides."""
