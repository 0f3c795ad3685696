"""llama.cpp's names and layouts, translated to those that transformers' classes save.

    token_embd → model.embed_tokens    blk.0.attn_q → model.layers.0.self_attn.q_proj    ffn_up → mlp.up_proj    …

A table (gguf_names/*.toml) lists the names, and what else llama.cpp did to the tensors: it reorders the rows of rotary
heads and of fused q, k and v, adds 1 to norms, and splits or joins parts. All of this is undone. What has to be
computed with or cut becomes F32 first, as transformers has it. What transformers computes from its configuration
(rope_freqs, rope_factors_long) keeps its name, as does every tensor that is not in the table. Other architectures are
refused by name.

Sources: llama.cpp's convert_hf_to_gguf.py (its folder conversion) and gguf-py/gguf/tensor_mapping.py; transformers'
modeling_gguf_pytorch_utils.py, and the names of its classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ckptconv.core.dtypes import DType
from ckptconv.edits.dialects.attention import grouped, halves_of, interleaved
from ckptconv.edits.dialects.change import Change, Join, check_parts
from ckptconv.edits.dialects.gguf_delta import Delta
from ckptconv.edits.dialects.gguf_projectors import is_mmproj
from ckptconv.edits.dialects.gguf_table import ROOT, Architecture, architectures, is_gguf_adapter, without_ending
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Permutation, Shape

    Tensors = Mapping[str, TensorInfo]

T = TypeVar("T")

_BLOCK = re.compile(r"((?:enc\.|dec\.)?blk)\.([0-9]{1,9})\.(.+)")
_EXPERT = re.compile(r"(\w+)\.([0-9]{1,9})\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is.

    prefix, layer: those of its block; "root" and "" outside of blocks.
    rest, stem:    its name there, with and without its ending.
    expert:        its number in files from before 2024, which have one tensor for each expert.
    """

    prefix: str
    layer: str
    rest: str
    stem: str
    expert: str | None

    @classmethod
    def of(cls, name: str) -> _Place:
        block = _BLOCK.fullmatch(name)
        prefix, layer, rest = block.groups() if block else (ROOT, "", name)
        expert = _EXPERT.fullmatch(rest) if block else None
        if expert:
            return cls(prefix, layer, f"{expert[1]}_exps.{expert[3]}", f"{expert[1]}_exps", expert[2])
        stem = without_ending(rest)
        return cls(prefix, layer, rest, stem, None)

    def lookup(self, table: Mapping[str, T]) -> T | None:
        """What a table says about this tensor."""
        return table.get(self.rest, table.get(self.stem))


def changes(tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor.

    Raises EditError if the architecture is not named or its heads do not fit, UnsupportedError for an architecture that
    is not in the table and for files that differ from others of theirs, LimitError for more experts than models have.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        is_transformers = isinstance(metadata.get("architectures"), list)
        raise EditError(
            "--translate gguf: no general.architecture says whose names these are",
            hint="--translate to-gguf makes llama.cpp's names of transformers'"
            if is_transformers
            else "a GGUF has it in its metadata",
        )
    if is_gguf_adapter(metadata):
        raise UnsupportedError(
            "--translate gguf: this is a llama.cpp adapter, whose names stay as they are",
            hint="ckptconv convert BASE.gguf MERGED.gguf --lora ADAPTER.gguf merges it",
        )
    if is_mmproj(metadata):
        raise UnsupportedError(
            "--translate gguf: these are names of a tower for pictures or sounds (mmproj), which stay as they are",
            hint="the language model beside it is; --rules FILE renames any",
        )
    if name not in architectures():
        raise UnsupportedError(
            f"--translate gguf does not know the architecture {name[:80]!r}",
            hint=f"it knows {', '.join(architectures())}; --rules FILE renames any",
        )
    return _Translation(tensors, metadata, name).changes()


class _Translation:
    def __init__(self, tensors: Tensors, metadata: Mapping[object, object], name: str) -> None:
        self.tensors = tensors
        self.metadata = metadata
        self.name = name
        self.cut = 0
        self.table: Architecture = architectures()[name]
        self.places = {key: _Place.of(key) for key in tensors}
        parts = {place.stem for place in self.places.values()}
        self.refuse_unlike(parts)
        self.names = self.table.names_with(parts)

    def refuse_unlike(self, parts: set[str]) -> None:
        """Raise UnsupportedError for a file that the table's `refused` rows describe."""
        for refusal in self.table.refused:
            value = self.metadata.get(refusal.key) if refusal.key else None
            is_other = value is not None and value not in refusal.but
            if is_other or (refusal.needs and refusal.needs not in parts):
                found = f"{refusal.key} {value!r}"[:120] if refusal.key else f"no {refusal.needs}"
                raise UnsupportedError(
                    f"--translate gguf: {self.name} with {found}: {refusal.why}", hint="--rules FILE renames any"
                )

    def changes(self) -> dict[str, Change]:
        joins = self.joins()
        return {
            name: self.joined(name, place, joins[name]) if name in joins else self.change(name, place)
            for name, place in self.places.items()
        }

    def heads(self, key: str, place: _Place) -> int:
        """The number of heads of q, or of k and v; the metadata has one number, or one for each layer."""
        value = self.metadata.get(f"{self.name}.attention.{key}")
        if value is None and key != "head_count":
            return self.heads("head_count", place)
        if isinstance(value, list) and int(place.layer) < len(value):
            value = value[int(place.layer)]
        if type(value) is not int or value < 1:
            raise UnsupportedError(
                f"--translate gguf: {self.name}.attention.{key} does not say how many heads layer {place.layer} has",
                hint="--rules FILE renames any",
            )
        return value

    def at(self, place: _Place) -> str:
        """What transformers puts before the names of this block, with the dot."""
        return f"{self.table.at[place.prefix]}.{place.layer}." if place.layer else ""

    def new_name(self, place: _Place) -> str | None:
        names = self.names[place.prefix]
        if place.rest in names:
            return self.at(place) + names[place.rest]
        known = names.get(place.stem)
        return None if known is None else self.at(place) + known + place.rest[len(place.stem) :]

    def change(self, name: str, place: _Place) -> Change:
        new, info = self.new_name(place), self.tensors[name]
        if new is None:
            why = f"of {self.name} no {place.stem} is known, which keeps its name" if place.layer else ""
            return Change(names=(name,), note=why)
        if "{}" in new:
            return Change(names=self.experts(new, info, place.expert) or (name,))
        if place.stem == "attn_qkv" and self.table.qkv == "groups":
            return grouped(name, new, info, self.heads("head_count", place), self.heads("head_count_kv", place))
        if self.table.delta == "fused" and place.rest in ("attn_qkv.weight", "attn_gate.weight"):
            gate = f"{place.prefix}.{place.layer}.attn_gate.weight"
            target = f"{self.at(place)}linear_attn.in_proj_qkvz.weight"
            return self.delta().fused(name, gate, target, info)
        change = self.plain(name, new, place)
        return self.delta().tiled(name, place.stem, place.rest, info, change) if self.is_tiled(place) else change

    def experts(self, new: str, info: TensorInfo, expert: str | None) -> tuple[str, ...]:
        """The names of the experts in a tensor that holds all of them, or of the one in its own tensor."""
        if expert is not None:
            return (new.replace("{}", expert),)
        count = info.shape[0] if info.shape else 0
        self.cut += count
        check_parts(self.cut)  # now, since a shape costs nothing and a name for each of its rows does
        return tuple(new.replace("{}", str(number)) for number in range(count))

    def plain(self, name: str, new: str, place: _Place) -> Change:
        """The change of a tensor that is neither cut nor joined."""
        info = self.tensors[name]
        axes, permute, function = place.lookup(self.table.axes), self.permutation(name, place), self.function(place)
        moved = axes is not None or permute is not None
        return Change(
            names=(new,), unpack=_to_unpack(info.dtype, moved=moved, computed=function is not None),
            shape=_shape(place.lookup(self.table.shape), info.shape), permute=permute, axes=axes, function=function,
        )  # fmt: skip

    def is_tiled(self, place: _Place) -> bool:
        return self.table.delta == "tiled" and f"{place.prefix}.{place.layer}.ssm_a" in self.tensors

    def delta(self) -> Delta:
        return Delta.of(self.metadata, self.name)

    def permutation(self, name: str, place: _Place) -> Permutation | None:
        key = place.lookup(self.table.halves)
        if key is not None:
            return halves_of(name, self.tensors[name], self.heads(key, place))
        if place.stem == "attn_qkv" and self.table.qkv == "heads":
            return interleaved(name, self.tensors[name], self.heads("head_count", place))
        return None

    def function(self, place: _Place) -> Mapping[str, Json] | None:
        if place.stem in self.table.log:
            return {"function": "log-neg"}
        return {"function": "add", "value": -1} if place.rest.endswith(self.table.less_one) else None

    def joins(self) -> dict[str, Join]:
        """By name, the joins of tensors that become one with others. Raises EditError if one is missing."""
        found: dict[str, Join] = {}
        for joining in self.table.join:
            for name, place in self.places.items():
                if place.prefix not in self.table.at or place.rest not in joining.parts:
                    continue
                target = self.at(place) + joining.target
                sources = tuple(f"{place.prefix}.{place.layer}.{part}" for part in joining.parts)
                if missing := [source for source in sources if source not in self.tensors]:
                    raise EditError(
                        f"--translate gguf: {name!r} is one part of {target}, and there is no {missing[0]!r}",
                        hint="--rules FILE renames any",
                    )
                found[name] = Join(target, sources, joining.kind, joining.axis, merge=joining.merge, axes=joining.axes)
        return found

    def joined(self, name: str, place: _Place, join: Join) -> Change:
        """The change of a part: it becomes F32 if its blocks would be cut, or if the parts' types differ."""
        axes, dtype = place.lookup(self.table.axes), self.tensors[name].dtype
        mixed = len({self.tensors[source].dtype for source in join.sources}) > 1
        transposed = any(self.places[source].lookup(self.table.axes) is not None for source in join.sources)
        moved = transposed or join.axes is not None or join.kind == "stack"
        return Change(names=(name,), unpack=_to_unpack(dtype, moved=moved, computed=mixed), axes=axes, into=join)


def _to_unpack(dtype: DType, *, moved: bool, computed: bool) -> bool:
    """Whether a tensor must become F32: blocks whose elements move, and everything that is computed with."""
    return (moved and dtype.kind == "block") or (computed and dtype is not DType.F32)


def _shape(how: str | None, shape: Shape) -> Shape | None:
    if how == "middle" and len(shape) == 2:
        return (shape[0], 1, shape[1])
    if how in ("row", "either") and len(shape) == 1:
        return (1, *shape)
    if how in ("column", "groups") and len(shape) > 1:
        count = 1
        for size in shape:
            count *= size
        return (count,)
    return None
