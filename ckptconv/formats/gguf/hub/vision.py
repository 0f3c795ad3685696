"""llama.cpp's hyperparameters for vision towers (``clip.vision.…``), for each projector.

llama.cpp implements each projector in one way, apart from sizes and activation. A configuration that states something
else is refused by name: the file would load, and compute something else. How images are scaled and cropped is also
hard-coded in llama.cpp; their mean, standard deviation and longest edge come from the preprocessor's file.

Sources: llama.cpp's conversion/ (`set_gguf_parameters` of MmprojModel and its subclasses; for `mlp`,
tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py), tools/mtmd/clip.cpp (`load_hparams`), tools/mtmd/models/
(what each computes); for the defaults, transformers' configuration_*.py.
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

    from ckptconv.formats.gguf.hub.tower import TowerConfigs
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_GELUS = ("gelu_pytorch_tanh", "gelu_new", "gelu")
_TANH = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 16, **_TANH,
}  # fmt: skip
_QWEN = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
VISION_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
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
"""The defaults of transformers' classes, which configurations leave out, by projector."""

_QWEN_IMAGE_SIZE = 560
"""What llama.cpp's converter writes for Qwen's towers, which take images of any size."""

_QWEN_EPSILON = 1e-6
_PIXTRAL_EPSILON = 1e-5
"""Hard-coded in transformers' classes, as Qwen's is."""
_QWEN_WINDOW = 112
_ROTARY_BASE = 10000.0
_MERGED = 2
_GEMMA_POOLED = 4
_MOST_LAYERS = 10_000
_RMS_TOWER = 3200, 45
"""The width and number of layers by which llama.cpp recognises the one InternVL tower with RMS norms."""


def vision_entries(configs: TowerConfigs) -> Entries:
    """The entries of a vision tower, without the mean and deviation of its images.

    Raises CorruptFileError, EditError, UnsupportedError.
    """
    specific, tower = SPECIFIC_ENTRIES[configs.projector](configs), configs.tower
    depth, heads = "num_hidden_layers", "num_attention_heads"
    if configs.projector.startswith("qwen"):
        depth, heads = "depth", "num_heads"
    entries: Entries = {
        "clip.projector_type": ("string", configs.projector),
        "clip.has_vision_encoder": ("bool", True),
        "clip.vision.block_count": ("uint32", tower.positive(depth)),
        "clip.vision.attention.head_count": ("uint32", tower.positive(heads)),
        "clip.vision.patch_size": ("uint32", configs.side("patch_size")),
    }
    for key, name in (("hidden_size", "embedding_length"), ("intermediate_size", "feed_forward_length")):
        if f"vision.{name}" not in specific:
            entries[f"clip.vision.{name}"] = ("uint32", tower.positive(key))
    if "vision.image_size" not in specific:
        entries["clip.vision.image_size"] = ("uint32", configs.side("image_size"))
    return entries | {f"clip.{key}": value for key, value in specific.items()}


def _epsilon(value: float) -> Entries:
    return {"vision.attention.layer_norm_epsilon": ("float32", value)}


def _gelu_or_silu(configs: TowerConfigs) -> Entries:
    return {"use_silu" if configs.activation("gelu", "silu") == "silu" else "use_gelu": ("bool", True)}


def _merged_patches(configs: TowerConfigs, config: Config, key: str, default: float) -> int:
    """How many patches of a row are merged into one; the configuration states the inverse, under `key`."""
    ratio = config.number(key, default=default)
    count = round(1 / ratio) if 0 < ratio <= 1 else 0
    if not count or count * ratio != 1:
        raise configs.unsupported(key, ratio, "it is 1, 1/2, 1/4, …")
    return count


def _gemma3(configs: TowerConfigs) -> Entries:
    configs.activation(*_GELUS)
    tokens = configs.model.get("mm_tokens_per_image") or configs.preprocessor.get("image_seq_length") or 256
    tokens = Config({"mm_tokens_per_image": tokens}).positive("mm_tokens_per_image")
    row, patches = isqrt(tokens), configs.side("image_size") // configs.side("patch_size")
    pooled = patches // row
    if row * row != tokens or not pooled or pooled * row != patches:
        raise configs.unsupported("mm_tokens_per_image", tokens, f"squares of {patches} × {patches} patches are pooled")
    entries: Entries = {"use_gelu": ("bool", True), **_epsilon(configs.tower.number("layer_norm_eps"))}
    if pooled != _GEMMA_POOLED:
        entries["vision.projector.scale_factor"] = ("uint32", pooled)
    return entries


def _idefics3(configs: TowerConfigs) -> Entries:
    configs.activation(*_GELUS)
    size = configs.preprocessor.get("size")
    edge = size.get("longest_edge") if isinstance(size, dict) else None
    edge = configs.side("image_size") if edge is None else Config({"longest_edge": edge}).positive("longest_edge")
    return {
        "use_gelu": ("bool", True), **_epsilon(configs.tower.number("layer_norm_eps")),
        "vision.projector.scale_factor": ("uint32", configs.model.positive("scale_factor", default=2)),
        "vision.preproc_image_size": ("uint32", edge),
    }  # fmt: skip


def _internvl(configs: TowerConfigs) -> Entries:
    has_rms_norms = configs.tower.text("norm_type", default="layer_norm") == "rms_norm"
    if has_rms_norms != ((configs.tower.width, configs.tower.layers) == _RMS_TOWER):
        why = "the tower of 3,200 × 45 alone has RMS norms"
        raise configs.unsupported("norm_type", configs.tower.get("norm_type"), why)
    configs.check("use_absolute_position_embeddings", True, "positions are added")
    configs.check("use_mean_pooling", True, "there is no norm behind the last layer")
    for key in ("vision_feature_layer", "select_layer"):
        configs.check(key, -1, "it takes the outputs of the last layer")
    configs.check("ps_version", "v2", "patches are merged as in v2")
    configs.check("projector_hidden_act", "gelu", "its projector computes with gelu")
    entries = _gelu_or_silu(configs) | _epsilon(configs.tower.number("layer_norm_eps"))
    scale = _merged_patches(configs, configs.model, "downsample_ratio", 0.5)
    entries["vision.projector.scale_factor"] = ("uint32", scale)
    for key, name in (("min_dynamic_patch", "preproc_min_tiles"), ("max_dynamic_patch", "preproc_max_tiles")):
        if count := configs.model.integer(key, default=0):
            entries[f"vision.{name}"] = ("uint32", count)
    return entries


def _llama4(configs: TowerConfigs) -> Entries:
    configs.activation("gelu")
    configs.check("vision_feature_layer", -1, "it takes the outputs of the last layer")
    configs.check("vision_feature_select_strategy", "default", "the first of its outputs, the class's, is left out")
    configs.check("multi_modal_projector_bias", False, "its projector has no bias")
    _check_rotary(configs)
    scale = _merged_patches(configs, configs.tower, "pixel_shuffle_ratio", 0.5)
    return {
        "use_gelu": ("bool", True), **_epsilon(configs.tower.number("norm_eps")),
        "vision.projector.scale_factor": ("uint32", scale),
    }  # fmt: skip


def _mlp(configs: TowerConfigs) -> Entries:
    """LLaVA 1.5: a CLIP tower, cut behind the layer whose outputs are used."""
    configs.check("projector_hidden_act", "gelu", "its projector computes with gelu")
    configs.check("vision_feature_select_strategy", "default", "the first of its outputs, the class's, is left out")
    layers = feature_layers({VISION: configs.tower.values, **configs.model.values} | {VISION: configs.tower.values})
    entries = {} if configs.activation("quick_gelu", "gelu") == "quick_gelu" else {"use_gelu": ("bool", True)}
    return {
        **entries, **_epsilon(configs.tower.number("layer_norm_eps")),
        "has_llava_projector": ("bool", True),
        "vision.block_count": ("uint32", layers),
        "vision.feature_layer": ("int32[]", [layers]),
    }  # fmt: skip


def _pixtral(configs: TowerConfigs) -> Entries:
    is_mistral = configs.class_name == "Mistral3ForConditionalGeneration"
    default_layer, default_strategy = (-1, "full") if is_mistral else (-2, "default")
    layer = configs.model.get("vision_feature_layer")
    layer = default_layer if layer is None else layer
    if layer != -1:
        raise configs.unsupported("vision_feature_layer", layer, "it takes the outputs of the last layer")
    if configs.model.text("vision_feature_select_strategy", default=default_strategy) != "full":
        why = "all outputs are taken: no class comes first"
        raise configs.unsupported("vision_feature_select_strategy", "default", why)
    configs.check("projector_hidden_act", "gelu", "its projector computes with gelu")
    heads = configs.tower.heads
    if configs.tower.head_width * heads != configs.tower.width:
        why = f"it has {heads} heads in {configs.tower.width}"
        raise configs.unsupported("head_dim", configs.tower.head_width, why)
    _check_rotary(configs)
    entries = _gelu_or_silu(configs) | _epsilon(_PIXTRAL_EPSILON)
    if is_mistral:
        entries["vision.spatial_merge_size"] = ("uint32", configs.model.positive("spatial_merge_size", default=2))
    return entries


def _check_rotary(configs: TowerConfigs) -> None:
    base = configs.tower.rope().get("rope_theta", _ROTARY_BASE)
    if base != _ROTARY_BASE:
        raise configs.unsupported("rope_theta", base, f"it computes with {_ROTARY_BASE:,.0f}")


def _qwen(configs: TowerConfigs) -> Entries:
    """The entries that all of Qwen's towers have."""
    configs.check("spatial_merge_size", _MERGED, "2 × 2 patches become one")
    configs.check("temporal_patch_size", _MERGED, "a picture is two frames")
    for key in ("in_channels", "in_chans"):
        configs.check(key, 3, "pictures have three colours")
    return {"vision.image_size": ("uint32", _QWEN_IMAGE_SIZE), **_epsilon(_QWEN_EPSILON)}


def _qwen2(configs: TowerConfigs) -> Entries:
    configs.activation("quick_gelu")
    return {
        **_qwen(configs), "vision.embedding_length": ("uint32", configs.tower.positive("embed_dim")),
        "vision.feed_forward_length": ("uint32", configs.tower.positive("hidden_size")),
    }  # fmt: skip


def _qwen25(configs: TowerConfigs) -> Entries:
    configs.activation("silu")
    configs.check("window_size", _QWEN_WINDOW, f"windows are of {_QWEN_WINDOW} pixels")
    full = configs.tower.items("fullatt_block_indexes") or []
    period = full[0] + 1 if full and type(full[0]) is int else 0
    layers = configs.tower.positive("depth")
    if period < 1 or layers > _MOST_LAYERS or full != list(range(period - 1, layers, period)):
        raise configs.unsupported("fullatt_block_indexes", full, "of so many layers, the last attends to all")
    return {**_qwen(configs), "use_silu": ("bool", True), "vision.n_wa_pattern": ("uint32", period)}


def _qwen3(configs: TowerConfigs) -> Entries:
    configs.activation(*_GELUS)
    count, layers = configs.tower.positive("num_position_embeddings"), configs.tower.positive("depth")
    deepstack_layers = deepstack(configs.tower.values)
    if isqrt(count) ** 2 != count:
        raise configs.unsupported("num_position_embeddings", count, "they are a square")
    if layers > _MOST_LAYERS or any(type(at) is not int or not 0 <= at < layers for at in deepstack_layers):
        stated = str(deepstack_layers)[:40]
        raise bad(f"{CONFIG}: deepstack_visual_indexes is {stated!r}, and no list of {layers} layers")
    return {
        **_qwen(configs), "use_gelu": ("bool", True),
        "vision.image_size": ("uint32", isqrt(count) * configs.side("patch_size")),
        "vision.spatial_merge_size": ("uint32", _MERGED),
        "vision.is_deepstack_layers": ("bool[]", [layer in deepstack_layers for layer in range(layers)]),
    }  # fmt: skip


SPECIFIC_ENTRIES: Mapping[str, Callable[[TowerConfigs], Entries]] = {
    "gemma3": _gemma3, "idefics3": _idefics3, "internvl": _internvl, "llama4": _llama4, "mlp": _mlp,
    "pixtral": _pixtral, "qwen2vl_merger": _qwen2, "qwen2.5vl_merger": _qwen25, "qwen3vl_merger": _qwen3,
}  # fmt: skip
"""For each projector, what reads the entries that only it has, or computes otherwise."""
