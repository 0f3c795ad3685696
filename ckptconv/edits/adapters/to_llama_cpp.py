"""Translates a PEFT adapter to one that llama.cpp loads beside a model (``--lora``): the factors of the weights that
`to_gguf` makes of the base's.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight    → blk.0.attn_q.weight.lora_a    rank × inputs
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight    → blk.0.attn_q.weight.lora_b    outputs × rank
    base_model.model.model.embed_tokens.lora_embedding_A              → token_embd.weight.lora_a      tokens × rank

Whatever happens to a weight W + B·A happens to its factors: a change of rows is made to B, one of columns to A, and if
one weight becomes several, each gets a copy of A. For GPT-2's Conv1D, PEFT has factors with outputs first, as llama.cpp
has the weight. Experts are stacked, if the factors of all have one rank.

Refused by name: what llama.cpp has no place for (DoRA, biases, weights that are saved whole), what it would load but
                 not use (norms, DeepSeek's attention), and what it does not load (an embedding that is also the
                 output).

Sources: llama.cpp's convert_lora_to_gguf.py, src/llama-adapter.cpp (what is loaded), src/llama-graph.cpp
(`build_lora_mm`, `build_lora_mm_id`, `build_inp_embd`) and src/models/ (where they are called).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.core.text import quoted
from ckptconv.edits.adapters.kinds import EMBEDDING, KINDS, LORA, kind_of
from ckptconv.edits.adapters.llama_cpp import FACTORS
from ckptconv.edits.adapters.names import is_adapter, parts_of, plain_module
from ckptconv.edits.dialects import to_gguf
from ckptconv.edits.dialects.change import Change, Join
from ckptconv.edits.dialects.gguf_config import architecture, text_config
from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, OUTPUT
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.adapters.names import Parts

    Tensors = Mapping[str, TensorInfo]

MERGE = "ckptconv convert BASE MERGED --lora ADAPTER merges it, and --translate to-gguf makes a model of that"

_COPY = ".base_layer.weight"
_KEPT = "the base's own {}, which PEFT saved beside its factors, is left out"
_FLOATS = (DType.F16, DType.BF16, DType.F32)


def changes(tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor of a model, or of an adapter; then `metadata` has its base's configuration.

    Raises as `to_gguf.changes`.
    """
    if not is_adapter(tensors):
        return to_gguf.changes(tensors, metadata)
    config = text_config(metadata)
    return _Translation(tensors, config, architecture(config)).changes()


class _Translation:
    """Translates an adapter by the translation of its base, whose shapes follow from the factors."""

    def __init__(self, tensors: Tensors, config: Mapping[object, object], name: str) -> None:
        self.tensors, self.config, self.name = tensors, config, name
        self.parts: Parts = parts_of(tensors)
        self.factors = {f"{plain_module(module)}.weight": self.factor_pair(module) for module in self.parts.modules}
        base = {weight: self.base_info(weight) for weight in self.factors}
        self.base = to_gguf.Translation(base, config, name)

    def factor_pair(self, module: str) -> tuple[str, str]:
        """The names of a module's two factors. Raises EditError, UnsupportedError if it has others, or more."""
        parts = self.parts.modules[module]
        kind = kind_of(parts)
        pair: tuple[str, ...] = {"down": LORA, "embedding_down": EMBEDDING}.get(kind, ())
        if pair and (lost := [part for part in pair if part not in parts]):
            raise EditError(
                f"--translate to-gguf: {module!r} has no {lost[0]} beside {kind}", hint="the adapter may be damaged"
            )
        if more := sorted(parts.keys() - set(pair)):
            what = {"magnitude": "a DoRA's", "up_bias": "a LoRA bias"}.get(
                more[0], KINDS[kind].name if kind else more[0]
            )
            raise UnsupportedError(
                f"--translate to-gguf: {parts[more[0]]!r} is {what}, which llama.cpp does not load", hint=MERGE
            )
        return parts[pair[0]], parts[pair[1]]

    def base_info(self, weight: str) -> TensorInfo:
        """The base's weight, outputs × inputs, or tokens × width.

        Raises EditError, UnsupportedError for other factors.
        """
        down, up = (self.tensors[name] for name in self.factors[weight])
        for name, info in zip(self.factors[weight], (down, up), strict=True):
            if info.dtype.kind != "float" or len(info.shape) != 2 or 0 in info.shape:
                raise UnsupportedError(
                    f"--translate to-gguf: {name!r} is {info.dtype} {list(info.shape)}, and llama.cpp takes factors "
                    f"that are matrices of floats", hint=MERGE,
                )  # fmt: skip
        if down.shape[0] != up.shape[1]:
            raise EditError(
                f"--translate to-gguf: the factors of {weight!r} are {list(down.shape)} and {list(up.shape)}, which "
                f"are of two ranks", hint="the adapter may be damaged",
            )  # fmt: skip
        shape = (up.shape[0], down.shape[1])
        return TensorInfo.of(DType.F32, shape[::-1] if self.is_embedding(weight) else shape)

    def is_embedding(self, weight: str) -> bool:
        return "lora_embedding_A" in self.factors[weight][0]

    def changes(self) -> dict[str, Change]:
        result = {name: self.change_whole(name) for name in self.parts.whole.values()}
        found = {weight: self.place(weight) for weight in self.factors}
        joins = self.base.joins(found)
        for weight, place in found.items():
            down, up = self.factors[weight]
            if self.is_embedding(weight):
                result[down] = replace(self.as_floats(down, f"{place.name}.lora_a"), axes=(1, 0))
                result[up] = self.as_floats(up, f"{place.name}.lora_b")
            elif join := joins.get(place.name):
                result |= self.change_expert(join, (down, up))
            else:
                result |= self.change_factors(weight, place, (down, up))
        for name in self.tensors:  # what is left are the base's own tensors of modules that are saved whole
            result.setdefault(name, Change(names=(name,), dropped=True))
        return {name: result[name] for name in self.tensors}

    def change_whole(self, name: str) -> Change:
        """Leaves out a tensor that is not a factor. Raises UnsupportedError unless the base has it, too."""
        if name.endswith(_COPY):
            return Change(names=(name,), dropped=True, note=_KEPT.format(name))
        raise UnsupportedError(
            f"--translate to-gguf: {name!r} replaces the base's, which no llama.cpp adapter does",
            hint=f"{MERGE}; --drop '{name}' leaves it out",
        )

    def place(self, weight: str) -> to_gguf.Found:
        """Where llama.cpp has the weight.

        Raises EditError if it has no place for it, UnsupportedError if it takes no adapter there.
        """
        own = self.base.own_name(weight)
        place = None if self.base.left_out(weight) else self.base.place(own)
        if place is None:
            raise EditError(
                f"--translate to-gguf: llama.cpp's {self.name} has no place for {quoted([weight])}, which the adapter "
                f"changes", hint=f"--drop '{self.factors[weight][0].rpartition('.lora_')[0]}.*' leaves it out",
            )  # fmt: skip
        table, tied = self.base.table, self.config.get("tie_word_embeddings") is True
        shared = table.output == "shared" or (tied and table.output != "own")
        if shared and place.name in (EMBEDDINGS, OUTPUT):
            raise UnsupportedError(
                f"--translate to-gguf: the embeddings are the output too, and llama.cpp takes no adapter of {weight!r} "
                f"then", hint=MERGE,
            )  # fmt: skip
        if self.is_embedding(weight) and place.name != EMBEDDINGS:
            raise UnsupportedError(
                f"--translate to-gguf: {weight!r} is an embedding, of which llama.cpp adapts that of tokens alone",
                hint=MERGE,
            )
        if place.stem in table.unadapted:
            raise UnsupportedError(
                f"--translate to-gguf: llama.cpp's {self.name} computes {place.stem} without adapters, and the adapter "
                f"changes {weight!r}", hint=MERGE,
            )  # fmt: skip
        return place

    def as_floats(self, name: str, new: str) -> Change:
        """The tensor under a new name, as floats."""
        return Change(names=(new,), unpack=self.tensors[name].dtype not in _FLOATS)

    def change_expert(self, join: Join, pair: tuple[str, str]) -> dict[str, Change]:
        """An expert's factors, to be stacked. Raises UnsupportedError where other experts' are of another rank."""
        result: dict[str, Change] = {}
        for at, (name, factor) in enumerate(zip(pair, FACTORS, strict=True)):
            sources = tuple(self.factors[source][at] for source in join.sources)
            if other := [source for source in sources if self.tensors[source].shape != self.tensors[name].shape]:
                raise UnsupportedError(
                    f"--translate to-gguf: {other[0]!r} is {list(self.tensors[other[0]].shape)}, and {name!r} "
                    f"{list(self.tensors[name].shape)}: llama.cpp has the factors of all experts in one tensor",
                    hint=MERGE,
                )
            mixed = (
                len({self.tensors[source].dtype for source in sources}) > 1
                and self.tensors[name].dtype is not DType.F32
            )
            into = Join(f"{join.target}.{factor}", sources, "stack", 0)
            result[name] = replace(self.as_floats(name, name), into=into)
            result[name] = replace(result[name], unpack=result[name].unpack or mixed)
        return result

    def change_factors(self, weight: str, place: to_gguf.Found, pair: tuple[str, str]) -> dict[str, Change]:
        """The factors changed as their weight is. Raises UnsupportedError if that is not possible."""
        down, up = pair
        change = self.base.change(weight, place, None)
        if change.shape == (self.tensors[down].shape[1],):  # a single row: ggml takes it for a vector
            change = replace(change, shape=None)
        transposed = change.axes == (1, 0)  # a Conv1D: its factors have outputs first already
        is_split = len(change.names) > 1
        reshaped = not is_split and (change.shape or not (change.axes is None or transposed))
        if reshaped or change.function or change.transposed or change.into:
            raise UnsupportedError(
                f"--translate to-gguf: llama.cpp has {weight!r} in another form, which its factors do not have",
                hint=MERGE,
            )
        weights = [*change.joined] or [*change.names]
        copies = tuple(f"{name}.lora_a" for name in weights[1:])
        first = replace(self.as_floats(down, f"{weights[0]}.lora_a"), copies=copies)
        if change.permute is not None and change.axis:  # columns are A's
            second = self.as_floats(up, f"{weights[0]}.lora_b")
            return {down: replace(first, permute=change.permute, axis=1), up: second}
        rank = self.tensors[down].shape[0]
        second = replace(
            change, unpack=self.tensors[up].dtype not in _FLOATS, names=tuple(map(_lora_b, change.names)),
            shape=(*change.shape[:-1], rank) if change.shape else None, axes=None if transposed else change.axes,
            joined={_lora_b(name): tuple(map(_lora_b, parts)) for name, parts in change.joined.items()},
        )  # fmt: skip
        return {down: first, up: second}


def _lora_b(name: str) -> str:
    return f"{name}.lora_b"
