"""The linear attention of Qwen3-Next and Qwen3.5 (a gated delta rule), as llama.cpp has it and as transformers does.

There are several heads of v for each of q and k. Of Qwen3.5 transformers has the v of one k side by side, llama.cpp the
first v of every k, then the second of every k: their order is changed wherever there are heads of v, which are the last
part of a fused q, k and v. Of Qwen3-Next llama.cpp has q, k and v, and z beside it; transformers all four for each k.

Sources: llama.cpp's conversion/qwen.py (Qwen3NextModel, _LinearAttentionVReorderBase).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.change import Change, Join
from ckptconv.edits.dialects.gguf_config import whole_number
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

KEYS = ("group_count", "time_step_rank", "state_size", "inner_size")
MOST = 1 << 10
"""Heads of v for each of k; models have one to eight."""

_SAID = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
_WIDE = ("attn_gate", "ssm_out")
_SINGLE = ("ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt")
_CUT = ("attn_qkv", "ssm_conv1d.weight")


@dataclass(frozen=True, slots=True)
class Delta:
    """How many heads there are, of q and k and of v, and how wide all of each are together."""

    keys: int
    values: int
    key_width: int
    value_width: int

    @classmethod
    def of(cls, metadata: Mapping[object, object], name: str) -> Delta:
        """Raises UnsupportedError where the metadata does not say it."""
        found = [metadata.get(f"{name}.ssm.{key}") for key in KEYS]
        numbers = [value for value in found if type(value) is int and value > 0]
        fit = len(numbers) == len(KEYS) and numbers[1] % numbers[0] == 0 == numbers[3] % numbers[1]
        if not fit or numbers[1] > MOST * numbers[0]:
            raise UnsupportedError(
                f"--translate gguf: {name}.ssm does not say how many heads its linear attention has",
                hint="--rules FILE renames any",
            )
        keys, values, width, wide = numbers
        return cls(keys, values, keys * width, wide)

    @classmethod
    def of_config(cls, config: Mapping[object, object]) -> Delta:
        """Raises EditError where a configuration of transformers' does not say it."""
        keys, values, width, wide = (whole_number(config, (key,)) or 0 for key in _SAID)
        if min(keys, values, width, wide) < 1 or values % keys or values > MOST * keys:
            raise EditError(
                "--translate to-gguf: the configuration does not say how many heads its linear attention has",
                hint=f"config.json has them: {', '.join(_SAID)}",
            )
        return cls(keys, values, keys * width, values * wide)

    def grouped(self, name: str, stem: str, info: TensorInfo, change: Change) -> Change:
        """The way back of `tiled`: the change, and the heads of v in llama.cpp's order. Raises as `tiled`."""
        times, width = self.values // self.keys, self.value_width // self.values
        if times == 1:
            return change
        if stem in ("attn_qkv", "ssm_conv1d"):
            return self._cut_back(name, info, change, width)
        wide = width if stem in _WIDE else 1 if stem in _SINGLE else 0
        if not wide:
            return change
        axis = 1 if stem == "ssm_out" else 0
        self._check(name, info, axis, self.values * wide)
        return replace(change, permute=((self.keys, times, wide), (1, 0, 2)), axis=axis)

    def _cut_back(self, name: str, info: TensorInfo, change: Change, width: int) -> Change:
        self._check(name, info, 0, 2 * self.key_width + self.value_width)
        new, times = change.names[0], self.values // self.keys
        heads = [f"{new}.{number}" for number in range(self.values)]
        tiled = [heads[key * times + turn] for turn in range(times) for key in range(self.keys)]
        return replace(
            change, names=(f"{new}.qk", *heads), sizes=(2 * self.key_width, *[width] * self.values),
            joined={new: (f"{new}.qk", *tiled)},
        )  # fmt: skip

    def parted(self, name: str, place: str, info: TensorInfo) -> Change:
        """The way back of `fused`: q, k, v and z of each k, as all q, k and v, and z. Raises as `tiled`."""
        self._check(name, info, 0, 2 * self.key_width + 2 * self.value_width)
        block = place.rpartition("ssm_in")[0]
        parts = [tuple(f"{name}.{part}{key}" for part in "qkvz") for key in range(self.keys)]
        sizes = (*[self.key_width // self.keys] * 2, *[self.value_width // self.keys] * 2)
        by_kind = [tuple(group[kind] for group in parts) for kind in range(4)]
        return Change(
            names=tuple(part for group in parts for part in group), sizes=sizes * self.keys,
            joined={f"{block}attn_qkv.weight": sum(by_kind[:3], ()), f"{block}attn_gate.weight": by_kind[3]},
        )  # fmt: skip

    def tiled(self, name: str, stem: str, rest: str, info: TensorInfo, change: Change) -> Change:
        """The change, and the heads of v in transformers' order. Raises EditError where the tensor has no such."""
        times = self.values // self.keys
        if times == 1:
            return change
        if stem in _CUT or rest in _CUT:
            return self._cut(name, info, change, times)
        width = self.value_width // self.values if stem in _WIDE else 1 if stem in _SINGLE else 0
        if not width:
            return change
        axis = 1 if stem == "ssm_out" else 0
        self._check(name, info, axis, self.values * width)
        order = (times, self.keys, width), (1, 0, 2)
        return replace(change, permute=order, axis=axis, unpack=change.unpack or info.dtype.kind == "block")

    def _cut(self, name: str, info: TensorInfo, change: Change, times: int) -> Change:
        self._check(name, info, 0, 2 * self.key_width + self.value_width)
        new = change.names[0]
        tiles = tuple(f"{new}.{number}" for number in range(times))
        return replace(
            change, names=(f"{new}.qk", *tiles), sizes=(2 * self.key_width, *[self.value_width // times] * times),
            into=Join(f"{new}.v", tiles, "concat", 0, blocks=self.keys), joined={new: (f"{new}.qk", f"{new}.v")},
        )  # fmt: skip

    def fused(self, name: str, gate: str, target: str, info: TensorInfo) -> Change:
        """q, k and v in one tensor, or the `gate`, z, as parts of what transformers has. Raises as `tiled`."""
        parts = tuple(f"{target}.{part}" for part in "qkv")
        into = Join(target, (*parts, gate), "concat", 0, blocks=self.keys)
        if name == gate:
            self._check(name, info, 0, self.value_width)
            return Change(names=(name,), into=into)
        self._check(name, info, 0, 2 * self.key_width + self.value_width)
        return Change(names=parts, sizes=(self.key_width, self.key_width, self.value_width), into=into)

    def _check(self, name: str, info: TensorInfo, axis: int, wanted: int) -> None:
        found = info.shape[axis] if axis < len(info.shape) else 0
        if found != wanted:
            raise EditError(
                f"{name!r} is {found} wide, and heads as the metadata says take {wanted}",
                hint="the number of heads is wrong",
            )
