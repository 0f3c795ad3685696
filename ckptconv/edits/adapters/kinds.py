"""The kinds of adapters: the tensor by which each is recognised, the tensors it has, and what makes its changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import blockwise, multiplied, products, shared
from ckptconv.edits.adapters.names import MLX_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.edits.adapters.build import Module
    from ckptconv.edits.adapters.merged import Change

    Builder = Callable[[Module, tuple[int, ...]], tuple[Change, ...]]

LORA = ("down", "up")
HIRA = ("hira_A", "hira_B")
EMBEDDING = ("embedding_down", "embedding_up")

_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
_LOGITS = tuple(f"vblora_logits_{side}{end}" for side in "AB" for end in ("", "_topk_indices", "_topk_weights"))
_COMMON = ("alpha", "magnitude", "diff_bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of change to a module.

    marks:  the parts by which it is recognised.
    name:   as people call it.
    peft:   the PEFT types that have it; none if it may go with any, or is not PEFT's.
    weight: makes the changes of the weight; None if only the bias is changed.
    bias:   makes the changes of the bias, besides what is added to it.
    needs:  parts that must be there. takes: parts that may be.
    shared: parts common to all modules, which must be in the file.
    scale:  gives what the change is multiplied by; None for 1.
    scaled: whether the user may scale it.
    plain:  whether it is only for weights that are outputs × inputs.
    ranks:  parts, and the dimension of each that is the rank; the first part that is there counts.
    magnitude: what a DoRA of that kind calls its norms.
    """

    marks: tuple[str, ...]
    name: str
    peft: tuple[str, ...] = ()
    weight: Builder | None = None
    bias: Builder | None = None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    scale: Callable[[Module], float] | None = None
    scaled: bool = True
    plain: bool = False
    ranks: tuple[tuple[str, int], ...] = ()
    magnitude: str = ""


_KINDS = (
    Kind(marks=("lora_E",), name="AdaLoRA", peft=("ADALORA",), weight=products.adalora, needs=LORA, takes=("ranknum",),
         ranks=(("down", 0),), scale=products.adalora_scale),
    Kind(marks=("down",), name="LoRA", peft=("LORA",), weight=products.lora, needs=LORA,
         takes=("mid", "up_bias", *_COMMON), ranks=(("down", 0),), scale=products.alpha_over_rank,
         magnitude="lora_magnitude_vector"),
    Kind(marks=("embedding_down",), name="LoRA of an embedding", peft=("LORA",), weight=products.embedding,
         needs=EMBEDDING, takes=("magnitude",), ranks=(("embedding_down", 0),), scale=products.alpha_over_rank,
         magnitude="lora_magnitude_vector"),
    Kind(marks=("hada_w1_a",), name="LoHa", peft=("LOHA",), weight=products.loha, needs=_HADA,
         takes=("hada_t1", "hada_t2", *_COMMON), ranks=(("hada_w1_b", 0),), scale=products.alpha_over_rank),
    Kind(marks=("lokr_w1", "lokr_w1_a"), name="LoKr", peft=("LOKR",), weight=products.lokr, takes=(*_LOKR, *_COMMON),
         ranks=(("lokr_w1_b", 0), ("lokr_w2_b", 0), ("lokr_t2", 0)), scale=products.alpha_over_rank),
    Kind(marks=("ia3",), name="IA3", peft=("IA3",), weight=multiplied.ia3, bias=multiplied.ia3_of_bias, scaled=False),
    Kind(marks=("on_input",), name="IA3 of LyCORIS", weight=multiplied.lycoris_ia3, needs=("ia3_weight",)),
    Kind(marks=("diff",), name="full difference", weight=products.whole, takes=("diff_bias", "alpha")),
    Kind(marks=("diff_bias",), name="full difference"),
    Kind(marks=("beft_bias",), name="BEFT", peft=("BEFT",)),
    Kind(marks=("tokens",), name="trainable tokens", weight=multiplied.tokens, scaled=False),
    Kind(marks=("lora_a",), name="LoRA", weight=products.of_mlx, needs=MLX_PARTS, takes=("magnitude",),
         ranks=(("lora_a", 1),), scale=products.alpha_over_rank, magnitude="m"),
    Kind(marks=("vera_lambda_b",), name="VeRA", peft=("VERA",), weight=shared.vera, needs=("vera_lambda_d",),
         shared=("vera_A", "vera_B"), ranks=(("vera_lambda_d", 0),)),
    Kind(marks=("randlora_lambda",), name="RandLora", peft=("RANDLORA",), weight=shared.randlora,
         needs=("randlora_gamma",), shared=("randlora_A", "randlora_B"), ranks=(("randlora_lambda", 0),),
         scale=shared.randlora_scale),
    Kind(marks=("vblora_logits_A", "vblora_logits_A_topk_indices"), name="VB-LoRA", peft=("VBLORA",),
         weight=shared.vblora, shared=("vblora_vector_bank",), takes=_LOGITS,
         ranks=(("vblora_logits_A", 0), ("vblora_logits_A_topk_indices", 0))),
    Kind(marks=("delora_A",), name="DeLoRA", peft=("DELORA",), weight=products.delora, plain=True,
         needs=("delora_B", "delora_lambda", "delora_w_norm"), ranks=(("delora_A", 0),)),
    Kind(marks=("gralora_A",), name="GraLoRA", peft=("GRALORA",), weight=blockwise.gralora, plain=True,
         needs=("gralora_B",), takes=("gralora_A_general", "gralora_B_general"), ranks=(("gralora_A", 2),),
         scale=blockwise.gralora_scale),
    Kind(marks=("miss_block", "bone_block"), name="MiSS", peft=("MISS", "BONE"), weight=blockwise.tiled, plain=True,
         ranks=(("miss_block", -2), ("bone_block", -2))),
    Kind(marks=("c3a_kernel",), name="C3A", peft=("C3A",), weight=blockwise.c3a, plain=True),
    Kind(marks=("shira_weight",), name="SHiRA", peft=("SHIRA",), weight=blockwise.shira, needs=("shira_indices",)),
    Kind(marks=("hira_A",), name="HiRA", peft=("HIRA",), weight=multiplied.hira, needs=HIRA,
         ranks=(("hira_A", 0),)),
    Kind(marks=("hira_embedding_A",), name="HiRA of an embedding", peft=("HIRA",), weight=multiplied.hira_of_embedding,
         needs=("hira_embedding_B",), ranks=(("hira_embedding_A", 0),)),
    Kind(marks=("oft_R", "oft_embedding_R"), name="OFT", peft=("OFT",), weight=multiplied.oft, scaled=False,
         plain=True),
    Kind(marks=("boft_R",), name="BOFT", peft=("BOFT",), weight=multiplied.boft, needs=("boft_s",), scaled=False,
         plain=True),
    Kind(marks=("oft_blocks",), name="OFT of outputs", weight=multiplied.oft_of_outputs, takes=("alpha", "rescale"),
         scaled=False),
    Kind(marks=("hra_u",), name="HRA", peft=("HRA",), weight=multiplied.hra, scaled=False, plain=True,
         ranks=(("hra_u", 1),)),
    Kind(marks=("a1",), name="GLoRA", weight=multiplied.glora, needs=("a2", "b1", "b2"), takes=("alpha",),
         ranks=(("a2", 0),), scale=products.alpha_over_rank),
    Kind(marks=("road_theta",), name="RoAd", peft=("ROAD",), weight=multiplied.road, bias=multiplied.road,
         needs=("road_alpha",), scaled=False, plain=True),
)  # fmt: skip

KINDS: Mapping[str, Kind] = {mark: kind for kind in _KINDS for mark in kind.marks}
"""The kinds by the parts that mark them; if a module has several, the first in this order counts."""

MERGED = frozenset({"LN_TUNING", "TRAINABLE_TOKENS", *(peft for kind in _KINDS for peft in kind.peft)})
"""The PEFT types that can be merged. LN tuning's tensors replace the base's."""


def kind_of(parts: Mapping[str, object]) -> str:
    """The part that marks the kind of a module's change, a key of `KINDS`; "" for none."""
    return next((part for part in KINDS if part in parts), "")
