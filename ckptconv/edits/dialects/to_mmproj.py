"""Translates transformers' towers for images or audio to the companion file in which llama.cpp keeps them (mmproj).

    vision_tower.encoder.layers.0.self_attn.q_proj → v.blk.0.attn_q    multi_modal_projector.linear_1 → mm.1    …

Names come in three layouts: that of released files (``vision_tower.vision_model.``), that of transformers' classes (all
below ``model.``), and that of transformers 5 (neither). A fused q, k and v is cut where llama.cpp has three tensors,
rows of q and k go from rotary halves to neighbouring pairs, a convolution over two frames becomes two, and a norm gets
its 1 added. Layers of a tower after the one that the projector reads are left out, and so is a tower's head.

The language model's tensors are left out with a warning; any other tensor that is not in the table is refused. If the
projector needs a row of the token embeddings, these keep their llama.cpp name, and the row is taken later, when it is
known which. Vectors, positions and whatever else `fixed_types` lists have the same type in every file, as llama.cpp's
converter makes them.

Sources: llama.cpp's conversion/ (MmprojModel and what inherits from it: `filter_tensors`, `modify_tensors`,
`tensor_force_quant`), gguf-py/gguf/tensor_mapping.py, tools/mtmd/clip.cpp (`load_tensors`) and tools/mtmd/models/.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.text import listed
from ckptconv.edits.dialects import mlx
from ckptconv.edits.dialects.attention import halves_of
from ckptconv.edits.dialects.change import Change
from ckptconv.edits.dialects.gguf_config import HEADS, LAYERS, is_supported, whole_number
from ckptconv.edits.dialects.gguf_cuts import inverse_permutation
from ckptconv.edits.dialects.gguf_projectors import VISION, projector_of
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, without_ending
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]


_TEXT = ("language_model.", "text_model.", "layers.", "embed_tokens.", "norm.", "lm_head.", "mtp.")
_TOWER = "vision_tower."
_NESTED = "vision_tower.vision_model."
_POSITIONS = ("v.position_embd.weight", "a.position_embd.weight")
_CONVOLUTION = "v.patch_embd.weight"
_CONVOLUTIONS = (_CONVOLUTION, "mm.patch_merger.weight")
_BUFFERS = ("*.position_ids", "*.rotary_emb.inv_freq", "*.rotary_pos_emb.inv_freq")
_LANGUAGE = "tensors of the language model are left out ({})"
_WRITTEN = ", of which --translate to-gguf makes a file"
_DEEP = "v.deepstack."


def changes(tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor. Raises EditError and UnsupportedError, as the module's docstring says."""
    mlx.refuse_mlx(tensors, metadata, "to-mmproj")
    return _Translation(tensors, metadata).changes()


def fixed_types(tensors: Tensors, metadata: Mapping[object, object], requested: DType | None) -> dict[str, DType]:
    """The types of those tensors that do not have the type that the file is written in.

    requested: the type that the file is written in; None if each tensor keeps its own. A convolution is F16 in a file
               of F16, and F32 in any other.
    """
    projector = projector_of(metadata)
    found: dict[str, DType] = {}
    for name, info in tensors.items():
        if name in projector.f16:
            found[name] = DType.F16
        elif name.startswith(_CONVOLUTIONS) and name not in projector.f32:
            found[name] = DType.F16 if (requested or info.dtype) is DType.F16 else DType.F32
        elif name in projector.f32 or _is_f32(name, len(info.shape)):
            found[name] = DType.F32
        elif name == EMBEDDINGS:
            found[name] = info.dtype
    return found


def _is_f32(name: str, rank: int) -> bool:
    return rank <= 1 or name in _POSITIONS or not name.endswith(".weight") or name.endswith("_norm.weight")


class _Translation:
    def __init__(self, tensors: Tensors, metadata: Mapping[object, object]) -> None:
        self.tensors = tensors
        self.table = projector_of(metadata)
        own = metadata[self.table.config]
        assert isinstance(own, dict)
        self.config: Mapping[object, object] = own
        self.left_out_note = _LANGUAGE + _WRITTEN * is_supported(metadata)
        self.layers = feature_layers(metadata) if self.table.past else None
        self.text = {name for name in tensors if _own_name(name).startswith(_TEXT)}

    def changes(self) -> dict[str, Change]:
        result: dict[str, Change] = {}
        unplaced: list[str] = []
        for name in self.tensors:
            change = self.left_out(name) or self.change(name)
            if change is None:
                unplaced.append(name)
            else:
                result[name] = change
        if unplaced:
            raise EditError(
                f"--translate to-mmproj: llama.cpp's {self.table.name} has no place for "
                f"{listed([repr(name) for name in unplaced], 2)}", hint="--drop leaves them out",
            )  # fmt: skip
        if all(change.dropped for change in result.values()):
            raise EditError(
                "--translate to-mmproj: there are no tensors for pictures or sounds",
                hint="they may be in another shard; ckptconv inspect --list shows the names",
            )
        return result

    def left_out(self, name: str) -> Change | None:
        """The change of a tensor that llama.cpp has elsewhere or has no place for; None for all others."""
        own = _own_name(name)
        if name in self.text:
            if self.table.row and own.endswith("embed_tokens.weight"):
                return Change.to(EMBEDDINGS)
            return Change(names=(name,), dropped=True, note=self.left_out_note.format(f"{len(self.text):,}"))
        if any(fnmatchcase(own, glob) for glob in (*self.table.left, *_BUFFERS)):
            return Change(names=(name,), dropped=True)
        return None

    def change(self, name: str) -> Change | None:
        """The change of a tensor that has a place; None if it has none."""
        own = _own_name(name)
        placed = self.place(own)
        if placed is None:
            return None
        number, names = placed
        if self.layers is not None and number is not None and names[0].startswith("v.blk.") and number >= self.layers:
            return Change(names=(name,), dropped=True)
        info = self.tensors[name]
        if info.dtype.kind != "float":
            raise EditError(
                f"--translate to-mmproj: {name!r} is of {info.dtype}, and not of floats",
                hint="weights that are quantized need --dequantize",
            )
        unpack = info.dtype is not DType.F32 and (
            info.dtype not in (DType.F16, DType.BF16) or _is_f32(names[0], len(info.shape))
        )
        if own == self.table.frames:
            return replace(_frames(name, info), unpack=unpack)
        if len(names) > 1:
            return replace(Change.cut(names, name, info), unpack=unpack)
        rotary = names[0].removesuffix(".weight").removesuffix(".bias").endswith(self.table.halves or ("/",))
        adds_one = names[0] in self.table.add_one
        column = names[0] in self.table.column and len(info.shape) == 1
        return Change(
            names=names, unpack=unpack or (adds_one and info.dtype is not DType.F32),
            shape=(info.shape[0], 1) if column else None,
            permute=inverse_permutation(halves_of(name, info, self.heads())) if rotary else None,
            function={"function": "add", "value": 1} if adds_one else None,
        )  # fmt: skip

    def place(self, own: str) -> tuple[int | None, tuple[str, ...]] | None:
        """The number in a name, and llama.cpp's names for it; found by the whole name or without its ending."""
        if own == self.table.frames:
            return None, (_CONVOLUTION, f"{_CONVOLUTION}.1")
        parts = own.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdecimal() and len(part) < 10), None)
        number = None if at is None else int(parts[at])
        if at is not None:
            parts[at] = "{}"
        key = ".".join(parts)
        stem = without_ending(key)
        names = self.table.names.get(key)
        if names is None and stem != key and stem in self.table.names:
            names = tuple(base + key[len(stem) :] for base in self.table.names[stem])
        if names is None:
            return None
        layer = self.deepstack_layer(number) if names[0].startswith(_DEEP) else number
        return number, tuple(name.replace("{}", str(layer)) for name in names)

    def deepstack_layer(self, number: int | None) -> int:
        """The layer whose outputs the merger of this number takes. Raises EditError if the configuration names none."""
        layers = deepstack(self.config)
        layer = layers[number] if number is not None and number < len(layers) else None
        if type(layer) is not int or layer < 0 or layers.count(layer) != 1:
            raise EditError(
                f"--translate to-mmproj: the configuration says no layer for deepstack_merger_list.{number}",
                hint="deepstack_visual_indexes of its vision_config lists them",
            )
        return layer

    def heads(self) -> int:
        """The number of heads in the tower. Raises EditError if the configuration does not say it."""
        count = whole_number(self.config, HEADS) or _PIXTRAL_HEADS
        if count < 1:
            raise EditError(
                "--translate to-mmproj: the configuration says no num_attention_heads for pictures",
                hint=f"it is in the {VISION} of the model's config.json",
            )
        return count


_PIXTRAL_HEADS = 16
"""The default of transformers' class, which configurations leave out."""

_CLIP_LAYERS = 12
_FEATURES = -2
"""Defaults that LLaVA's configurations leave out: outputs are taken from the last layer but one."""


def deepstack(tower: Mapping[object, object]) -> list[object]:
    """The layers of Qwen3-VL's tower whose outputs are passed on; none of Qwen3.5's, which is otherwise the same."""
    layers = tower.get("deepstack_visual_indexes")
    if isinstance(layers, list):
        return layers
    return [] if str(tower.get("model_type")).startswith("qwen3_5") else [8, 16, 24]


def feature_layers(metadata: Mapping[object, object]) -> int:
    """How many layers of the tower come before the outputs that the projector takes. Raises EditError if the
    configuration names no such layer.
    """
    vision = metadata.get(VISION)
    layers = whole_number(vision, LAYERS) if isinstance(vision, dict) else None
    layers = _CLIP_LAYERS if layers is None else layers
    index = metadata.get("vision_feature_layer")
    index = _FEATURES if index is None else index
    if type(index) is not int or not 0 < (index + layers + 1 if index < 0 else index) <= layers:
        raise EditError(
            f"--translate to-mmproj: vision_feature_layer is {str(index)[:40]!r}, and no one layer of {layers}",
            hint="llama.cpp's projector takes the outputs of one",
        )
    return index + layers + 1 if index < 0 else index


def _own_name(name: str) -> str:
    """A name in the shortest of the three layouts."""
    own = name.removeprefix("model.")
    return f"{_TOWER}{own.removeprefix(_NESTED)}" if own.startswith(_NESTED) else own


def _frames(name: str, info: TensorInfo) -> Change:
    """Cuts a convolution over two frames into one for each. Raises EditError if it is not over two."""
    if len(info.shape) != 5 or info.shape[2] != 2:
        raise EditError(
            f"{name!r} is {list(info.shape)}, and no convolution over two frames", hint="llama.cpp has no other"
        )
    return Change(names=(_CONVOLUTION, f"{_CONVOLUTION}.1"), axes=(2, 0, 1, 3, 4))
