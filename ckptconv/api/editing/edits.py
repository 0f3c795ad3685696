"""What a user asks for while converting: select, drop, dequantize, remove parametrizations, rename, rules, casts,
quantize, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, cast

from ckptconv.api.request import as_tuple, option_words
from ckptconv.edits.name_rule import TO_GGUF, TO_LDM, TO_MMPROJ, NameRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.editing.lora import Lora

    Step = NameRule | Lora | str | PathLike[str]
    Origins = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """Changes to the model's tensors on the way. Arguments that take several values also accept a single one.

    select, drop: globs over the source's names; ``*`` also matches dots.
    dequantize:   make plain tensors of quantized weights, in the type that the configuration states for them (F32 if it
                  states none), or in that of `dtype`.
    remove_parametrizations:
                  compute the weights that are pruned, or normalized by weight_norm or spectral_norm.
    names:        prefixes, substitutions, translations and templates (`NameRule`), adapters to merge (`Lora`), and
                  rules files (their paths), applied in the order given. Substitutions are Python regular expressions,
                  which can be slow if written badly; the patterns in rules files take linear time.
    reverse:      undo the rules files instead.
    dtype:        ``"BF16"`` for all floats, ``"GLOB=F32"`` for some; the last that matches counts. For a GGUF also a
                  block type such as ``"Q8_0"``, for the matrices that can have it, or one of llama.cpp's mixtures such
                  as ``"Q4_K_M"``, for a whole model.
    quantize:     a scheme such as ``"fp8"`` for the weights of all linear layers, ``"GLOB=fp8"`` for some of these, or
                  ``"NAME=fp8"`` for one weight of any layer.
    """

    select: Sequence[str] = ()
    drop: Sequence[str] = ()
    dequantize: bool = False
    remove_parametrizations: bool = False
    names: Sequence[Step] | Step = ()
    reverse: bool = False
    dtype: Sequence[str] = ()
    quantize: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("select", "drop", "dtype", "quantize"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        names = self.names
        if isinstance(names, str | PathLike) or not isinstance(names, Iterable):
            names = (names,)
        object.__setattr__(self, "names", tuple(names))

    @property
    def steps(self) -> tuple[Step, ...]:
        """The `names`, as a tuple."""
        return cast("tuple[Step, ...]", self.names)

    @property
    def words(self) -> tuple[str, ...]:
        """The options of ``ckptconv convert`` that ask for this."""
        names = tuple(word for step in self.steps for word in _words_of_step(step))
        before = {
            "--select": self.select, "--drop": self.drop, "--dequantize": self.dequantize,
            "--remove-parametrizations": self.remove_parametrizations,
        }  # fmt: skip
        after = {"--reverse": self.reverse, "--dtype": self.dtype, "--quantize": self.quantize}
        return (*option_words(before), *names, *option_words(after))

    @property
    def dialects(self) -> tuple[str, ...]:
        """The dialects of the translations among `names`."""
        return self._texts_of("translate")

    @property
    def templates(self) -> tuple[str, ...]:
        """The paths of the templates (``--like``) among `names`."""
        return self._texts_of("like")

    def _texts_of(self, how: str) -> tuple[str, ...]:
        return tuple(step.text for step in self.steps if isinstance(step, NameRule) and step.how == how)

    @property
    def for_llama_cpp(self) -> str:
        """The dialect among `names` that makes a file for llama.cpp; "" if there is none."""
        return next((dialect for dialect in self.dialects if dialect in (TO_GGUF, TO_MMPROJ)), "")

    @property
    def to_mmproj(self) -> bool:
        """Whether the result is llama.cpp's second file, for images or audio."""
        return self.for_llama_cpp == TO_MMPROJ

    @property
    def to_ldm(self) -> bool:
        """Whether the result is a single file of a diffusion model."""
        return TO_LDM in self.dialects

    def __bool__(self) -> bool:
        changed = self.names or self.reverse or self.dtype or self.quantize
        values = self.dequantize or self.remove_parametrizations
        return bool(self.select or self.drop or values or changed)


def _words_of_step(step: Step) -> tuple[str, str]:
    if isinstance(step, str | PathLike):
        return "--rules", fspath(step)
    return (f"--{step.how}" if isinstance(step, NameRule) else "--lora"), step.text


@dataclass(frozen=True, slots=True)
class Moves:
    """Where tensors come from: by new name, the source's names, and the adapters that were merged into the tensor."""

    origins: Origins = field(default_factory=dict)
    merged: Origins = field(default_factory=dict)
