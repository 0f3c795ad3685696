"""The linear attention of Qwen3-Next and Qwen3.5 (a gated delta rule), between llama.cpp's layout and transformers'.

There are several heads of v for each head of q and k. In Qwen3.5, transformers puts the v of one k side by side, and
llama.cpp puts the first v of every k first, then the second of every k; so the heads of v are reordered wherever they
occur, also as the last part of a fused q, k and v. In Qwen3-Next, llama.cpp has q, k and v fused, and z separate, while
transformers has all four fused, k by k.

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
"""The most heads of v for each head of k; models have one to eight."""

_CONFIG_KEYS = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
_WIDE = ("attn_gate", "ssm_out")
_SINGLE = ("ssm_alpha", "ssm_beta", "ssm_a", "ssm_dt")
_CUT = ("attn_qkv", "ssm_conv1d.weight")


@dataclass(frozen=True, slots=True)
class Delta:
    """The number of heads of q and k, and of v, and the total width of each."""

    keys: int
    values: int
    key_width: int
    value_width: int

    @classmethod
    def of(cls, metadata: Mapping[object, object], name: str) -> Delta:
        """Read from llama.cpp's metadata. Raises UnsupportedError if it is not there."""
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
        """Read from a transformers configuration. Raises EditError if it is not there."""
        keys, values, width, wide = (whole_number(config, (key,)) or 0 for key in _CONFIG_KEYS)
        if min(keys, values, width, wide) < 1 or values % keys or values > MOST * keys:
            raise EditError(
                "--translate to-gguf: the configuration does not say how many heads its linear attention has",
                hint=f"config.json has them: {', '.join(_CONFIG_KEYS)}",
            )
        return cls(keys, values, keys * width, values * wide)

    def grouped(self, name: str, stem: str, info: TensorInfo, change: Change) -> Change:
        """Undoes `tiled`: adds llama.cpp's order of heads of v to the change. Raises EditError like `tiled`."""
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

    def separated(self, name: str, place: str, info: TensorInfo) -> Change:
        """Undoes `fused`: cuts q, k, v and z, fused k by k, into all of q, k and v, and z. Raises EditError."""
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
        """Adds transformers' order of heads of v to the change. Raises EditError if the tensor has no such heads."""
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
        """Makes q, k and v in one tensor, or the `gate` z, parts of transformers' tensor. Raises EditError."""
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
