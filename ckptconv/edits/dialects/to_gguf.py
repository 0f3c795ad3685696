"""Translates transformers' names and layouts to llama.cpp's: the reverse of `gguf`, by the same table.

    model.embed_tokens → token_embd    model.layers.0.self_attn.q_proj → blk.0.attn_q    mlp.up_proj → ffn_up    …

Rotary heads go from halves to neighbouring pairs, fused q, k and v are reordered, norms get their 1 added, and experts
are stacked. The class and the number of heads are read from the configuration. Vectors, norms, routers and positions
become F32, since llama.cpp computes with nothing else there; so do elements of types that it does not have.

Tensors that llama.cpp has no place for are left out where the table says so (buffers that transformers computes, BERT's
heads), and so are an output layer that equals the embeddings, and other copies of them. Two kinds are left out with a
warning: those for images, which llama.cpp keeps in a file of their own, and layers that predict further tokens, which
it does not compute. Any other tensor that is not in the table is refused, as llama.cpp would refuse the file.
Architectures whose parts are cut or fused in yet other ways are only read (`gguf`).

Source: llama.cpp's conversion/ (`modify_tensors` of its classes, `prepare_tensors` for the types).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

from ckptconv.core.dtypes import DType
from ckptconv.core.text import quoted
from ckptconv.edits.dialects import mlx
from ckptconv.edits.dialects.attention import halves_of, interleaved, ungrouped
from ckptconv.edits.dialects.change import Change, Join
from ckptconv.edits.dialects.gguf_config import (
    EXPERTS,
    GROUPS,
    HEADS,
    LAYERS,
    STATE_GROUPS,
    architecture,
    falcon_groups,
    text_config,
    whole_number,
)
from ckptconv.edits.dialects.gguf_cuts import argsort, cut, cut_heads, has_inputs_first, inverse_permutation
from ckptconv.edits.dialects.gguf_delta import Delta
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, OUTPUT, PREFIXES, ROOT, architectures, without_ending
from ckptconv.errors import LIST_NAMES, EditError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.dialects.change import Permutation, Shape
    from ckptconv.edits.dialects.gguf_table import Joining

    Tensors = Mapping[str, TensorInfo]

T = TypeVar("T")

_FACTORS = (".weight.lora_a", ".weight.lora_b")
_KEPT = (DType.F16, DType.BF16)
_F32_PARTS = ("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types", "ssm_conv1d", "shortconv.conv")
_LANGUAGE = ("language_model.", "text_model.")
_PICTURES = "tensors for pictures or sounds are left out ({}), of which --translate to-mmproj makes a file of their own"
_AHEAD = "layers that predict further tokens (mtp) are left out: texts come out the same without them"
_FURTHER = "layers that predict further tokens are left out, which llama.cpp does not compute"


def is_kept_f32(name: str, rank: int) -> bool:
    """Whether one of llama.cpp's tensors is F32 in every file, whatever type the model is written in."""
    if name.endswith(_FACTORS):
        return rank <= 1
    stem, _, ending = name.rpartition(".")
    part = stem.split(".", 2)[2] if re.match(r"(?:enc\.|dec\.)?blk\.", stem) and stem.count(".") > 1 else stem
    return rank <= 1 or ending != "weight" or stem.endswith("_norm") or part in _F32_PARTS


def changes(tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor. Raises EditError and UnsupportedError, as the module's docstring says."""
    config = text_config(metadata)
    name = architecture(config)
    mlx.refuse_mlx(tensors, metadata, "to-gguf")
    return Translation(tensors, config, name).changes()


@dataclass(frozen=True, slots=True)
class Found:
    """Where llama.cpp has a tensor: its name there, that without the ending, and the number of the expert it is of."""

    name: str
    stem: str
    expert: int | None = None


class Translation:
    """Translates a model's tensors by the table of the architecture `name`."""

    def __init__(self, tensors: Tensors, config: Mapping[object, object], name: str) -> None:
        self.tensors, self.config, self.name = tensors, config, name
        self.table = architectures()[name]
        self.mixed = bool(whole_number(config, EXPERTS))
        self.parts = {place: self.inverse(place) for place in (ROOT, *PREFIXES)}
        self.cuts: dict[str, Joining] = {}
        outputs_first = self.table.either and not has_inputs_first(tensors, config)
        self.axes = {} if outputs_first else self.table.axes
        for row in (*self.table.join, *self.table.cut):
            row = replace(row, axes=None) if outputs_first else row
            if row.target not in self.cuts or self.fits_mixture(row.parts[0]):
                self.cuts[row.target] = row
        self.outer = self.prefixes()
        self.pictures = {name for name in tensors if any(fnmatchcase(name, glob) for glob in self.table.pictures)}

    def inverse(self, place: str) -> dict[str, str]:
        """llama.cpp's parts by transformers' names.

        If two parts have the same name, the last one wins, which is the architecture's own. Shared experts win only in
        a mixture: in a model without experts, theirs is the name of the feed-forward layer.
        """
        names = [*self.table.names[place].items()]
        names += [item for more in self.table.also.values() for item in more.get(place, {}).items()]
        names += self.table.whole.items() if place == PREFIXES[0] else ()
        found: dict[str, str] = {}
        for part, name in names:
            if name not in found or "_shexp" not in found[name] + part or self.fits_mixture(part):
                found[name] = part
        return {_outside(name): part for name, part in found.items()}

    def fits_mixture(self, part: str) -> bool:
        return ("_shexp" in part) == self.mixed

    def prefixes(self) -> tuple[str, str]:
        """What the source's names have before the table's, and what the table's have before the source's."""
        if self.table.inside and any(name.startswith(f"{self.table.inside}.") for name in self.tensors):
            return f"{self.table.inside}.", ""
        module = next(iter(self.table.at.values())).partition(".")[0] + "."
        if any(_outside(name).startswith(module) for name in self.tensors):
            return "", ""
        all_in_module = all(name.startswith(module) for name in self.parts[ROOT] if "head" not in name)
        return "", module if all_in_module else ""

    def changes(self) -> dict[str, Change]:
        found: dict[str, Found] = {}
        changes: dict[str, Change] = {}
        unplaced: list[str] = []
        for name in self.tensors:
            if (left_out := self.left_out(name)) is not None:
                changes[name] = left_out
            elif (place := self.place(self.own_name(name))) is None:
                unplaced.append(name)
            else:
                found[name] = place
        if unplaced:
            names = quoted(unplaced, 2)
            raise EditError(
                f"--translate to-gguf: llama.cpp's {self.name} has no place for {names}",
                hint=self.hint_for(unplaced),
            )
        joins = self.joins(found)
        changes |= {name: self.change(name, place, joins.get(place.name)) for name, place in found.items()}
        return {name: changes[name] for name in self.tensors} | self.output_twin(found, changes)

    def left_out(self, name: str) -> Change | None:
        """The change of a tensor that llama.cpp has no place for; None for all others."""
        if name in self.pictures:
            return Change(names=(name,), dropped=True, note=_PICTURES.format(f"{len(self.pictures):,}"))
        own = self.own_name(name)
        if any(fnmatchcase(own, glob) for glob in self.table.left):
            return Change(names=(name,), dropped=True)
        if any(fnmatchcase(name, glob) for glob in self.table.ahead):
            return Change(names=(name,), dropped=True, note=_AHEAD)
        twin = self.table.twins.get(own, "")
        if twin in self.tensors:
            return Change(names=(name,), twin=twin, tied=True)
        layers, at = whole_number(self.config, LAYERS), self.table.at.get("blk", "")
        if self.table.further == "left" and layers is not None and own.startswith(f"{at}."):
            number = own[len(at) + 1 :].partition(".")[0]
            if number.isdecimal() and len(number) < 10 and int(number) >= layers:
                return Change(names=(name,), dropped=True, note=_FURTHER)
        return None

    def hint_for(self, unplaced: Sequence[str]) -> str:
        if any(name.endswith("_proj_blocks") for name in unplaced):
            return "--dequantize makes floats of them, and --dtype '*_exps.weight=MXFP4' the same blocks' values again"
        first = unplaced[0].partition(".")[0] + "."
        if len(unplaced) == len(self.tensors) and all(name.startswith(first) for name in unplaced):
            return f"--strip-prefix {first} before it makes transformers' names of them"
        return "--drop leaves them out; weights that are quantized need --dequantize"

    def own_name(self, name: str) -> str:
        inside, added = self.outer
        own = _outside(name).removeprefix(inside)
        return f"{added}{own}" if added and own.partition(".")[0] != "lm_head" else own

    def place(self, name: str) -> Found | None:
        for prefix, where in self.table.at.items():
            at = _outside(where)
            layer, _, rest = name.removeprefix(f"{at}.").partition(".")
            if name.startswith(f"{at}.") and layer.isdecimal() and len(layer) < 10:
                return self.named(rest, self.parts[prefix], f"{prefix}.{layer}.")
        return self.named(name, self.parts[ROOT], "")

    def named(self, rest: str, parts: Mapping[str, str], before: str) -> Found | None:
        """Finds a name in the table: as one that is cut, as it is, without its ending, or as one of the experts."""
        if before and rest in self.cuts:
            return Found(f"{before}{rest}", rest)
        if rest in parts:
            stem = without_ending(parts[rest])
            return Found(f"{before}{parts[rest]}", stem)
        stem = without_ending(rest)
        ending = rest[len(stem) :]
        if ending and stem in parts:
            return Found(f"{before}{parts[stem]}{ending}", parts[stem])
        for pattern, part in parts.items():
            head, mark, tail = pattern.partition("{}")
            if mark and ending and stem.startswith(head) and stem.endswith(tail):
                number = stem[len(head) : len(stem) - len(tail)]
                if number.isdecimal() and len(number) < 10:
                    return Found(f"{before}{part}{ending}", part, int(number))
        return None

    def joins(self, found: Mapping[str, Found]) -> dict[str, Join]:
        """The joins of experts into one tensor. Raises EditError if their number is wrong."""
        experts: dict[str, dict[int, str]] = defaultdict(dict)
        for name, place in found.items():
            if place.expert is not None:
                experts[place.name][place.expert] = name
        count = whole_number(self.config, EXPERTS)
        for target, names in experts.items():
            if len(names) != (count or len(names)) or sorted(names) != list(range(len(names))):
                raise EditError(
                    f"--translate to-gguf: {target} is made of {count or max(names) + 1} experts, and there are "
                    f"{len(names)}", hint=LIST_NAMES,
                )  # fmt: skip
        return {
            target: Join(target, tuple(names[number] for number in sorted(names)), "stack", 0)
            for target, names in experts.items()
        }

    def change(self, name: str, place: Found, join: Join | None) -> Change:
        info = self.tensors[name]
        if info.dtype.kind != "float":
            raise EditError(
                f"--translate to-gguf: {name!r} is of {info.dtype}, and not of floats",
                hint="weights that are quantized need --dequantize",
            )
        if place.stem in self.cuts:
            return self.cut(name, place, self.cuts[place.stem])
        is_f32 = is_kept_f32(place.name, len(info.shape) + (join is not None))
        unpack = info.dtype is not DType.F32 and (is_f32 or info.dtype not in _KEPT)
        if join is not None:
            mixed = len({self.tensors[source].dtype for source in join.sources}) > 1
            return Change(names=(name,), unpack=unpack or (mixed and info.dtype is not DType.F32), into=join)
        if place.stem == "attn_qkv" and self.table.qkv == "groups":
            groups = falcon_groups(self.config)
            return replace(ungrouped(name, place.name, info, self.number(*HEADS), groups or 1), unpack=unpack)
        if self.table.delta == "fused" and place.stem == "ssm_in":
            return replace(self.delta().separated(name, place.name, info), unpack=unpack)
        axes = self.lookup(self.axes, place)
        function = self.function(place)
        change = Change(
            names=(place.name,), unpack=unpack or (function is not None and info.dtype is not DType.F32),
            shape=self.shape(self.lookup(self.table.shape, place), info.shape),
            permute=self.permutation(name, place), axes=None if axes is None else argsort(axes), function=function,
        )  # fmt: skip
        return self.delta().grouped(name, place.stem, info, change) if self.table.delta == "tiled" else change

    def delta(self) -> Delta:
        return Delta.of_config(self.config)

    def cut(self, name: str, place: Found, joining: Joining) -> Change:
        """The change of a tensor that llama.cpp has in several pieces."""
        info = self.tensors[name]
        before = place.name.removesuffix(place.stem)
        names = [f"{before}{part}" for part in joining.parts]
        if joining.kind == "concat" and joining.merge is not None:
            sizes = tuple(self.number(key) for key in ("qk_nope_head_dim", "v_head_dim"))
            axes_of_parts = [argsort(self.axes.get(part, (0, 1, 2))) for part in joining.parts]
            change = cut_heads(name, info, names, self.number(*HEADS), sizes, axes_of_parts)
        else:
            change = cut(name, info, joining, names)
        is_f32 = is_kept_f32(names[0], len(info.shape))
        return replace(change, unpack=info.dtype is not DType.F32 and (is_f32 or info.dtype not in _KEPT))

    def lookup(self, table: Mapping[str, T], place: Found) -> T | None:
        """What the table says about a part, by its name in the block."""
        rest = re.sub(r"^(?:enc\.|dec\.)?blk\.[0-9]+\.", "", place.name)
        return table.get(rest, table.get(place.stem))

    def function(self, place: Found) -> Mapping[str, Json] | None:
        if place.stem in self.table.log:
            return {"function": "neg-exp"}
        return {"function": "add", "value": 1} if place.name.endswith(self.table.less_one) else None

    def permutation(self, name: str, place: Found) -> Permutation | None:
        info, key = self.tensors[name], self.lookup(self.table.halves, place)
        if key is not None:
            heads = self.number(*HEADS) if key == "head_count" else self.number(*GROUPS, *HEADS)
            return inverse_permutation(halves_of(name, info, heads))
        if place.stem == "attn_qkv" and self.table.qkv == "heads":
            return inverse_permutation(interleaved(name, info, self.number(*HEADS)))
        return None

    def number(self, *keys: str) -> int:
        """A number that the configuration must have. Raises EditError if it does not."""
        count = whole_number(self.config, keys)
        if count is None or count < 1:
            raise EditError(
                f"--translate to-gguf: the configuration says no {keys[0]}", hint="it is in the model's config.json"
            )
        return count

    def shape(self, how: str | None, shape: Shape) -> Shape | None:
        if how == "middle" and len(shape) == 3 and shape[1] == 1:
            return (shape[0], shape[2])
        if how == "row" and len(shape) == 2 and shape[0] == 1:
            return shape[1:]
        if how == "column" and len(shape) == 1:
            return (shape[0], 1)
        groups = whole_number(self.config, STATE_GROUPS) or 1
        if how == "groups" and len(shape) == 1 and groups > 0 and shape[0] % groups == 0:
            return (groups, shape[0] // groups)
        return None

    def output_twin(self, found: Mapping[str, Found], changes: Mapping[str, Change]) -> dict[str, Change]:
        """The change of an output that may be a copy of the embeddings, which llama.cpp uses if there is no output."""
        by_place = {place.name: name for name, place in found.items()}
        output, embeddings = by_place.get(OUTPUT), by_place.get(EMBEDDINGS)
        if output is None or embeddings is None or self.table.output == "own":
            return {}
        tied = self.config.get("tie_word_embeddings") is True
        return {output: Change(names=changes[output].names, unpack=changes[output].unpack, twin=embeddings, tied=tied)}


def _outside(name: str) -> str:
    """A tensor's name as it would be if the language model were not part of another model."""
    for part in _LANGUAGE:
        name = name.replace(part, "")
    return name
