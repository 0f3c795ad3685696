"""Weights as quantizers store them: which are asked for, what is told, and what a configuration has to say of them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ckptconv.core.composite import Quantized
from ckptconv.core.edit import Edit, Step
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.core.text import listed, plural
from ckptconv.edits.computed import before_quantizing, quantized_as
from ckptconv.edits.quantized.marks import quantized_in
from ckptconv.edits.quantizers.configs import CONFIG_KEY, EXPERT
from ckptconv.edits.quantizers.experts import apart
from ckptconv.edits.quantizers.linear import kept_modules, linear_weights, nothing_to_do, stacked_experts
from ckptconv.edits.quantizers.schemes import SCHEMES
from ckptconv.edits.select import matching, some
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ckptconv.core.composite import Composite
    from ckptconv.core.report import Severity
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.quantizers.schemes import Scheme

    Tensors = Mapping[str, LazyTensor]

_NEW_NAMES = "names are those that the target gets: ckptconv convert --dry-run shows them"


def scheme_of(texts: Sequence[str]) -> Scheme:
    """The scheme that all of these ask for. Raises UsageError for another, or for several."""
    names = list(dict.fromkeys(text.rpartition("=")[2] for text in texts))
    for name in names:
        if name not in SCHEMES:
            raise UsageError(f"--quantize: there is no scheme {name!r}", hint=f"one of {', '.join(SCHEMES)}")
    if len(names) > 1:
        asked = " and ".join(names)
        raise UsageError(f"--quantize: {asked} in one file", hint="a configuration says one scheme for all")
    return SCHEMES[names[0]]


def quantize_edit(
    tensors: Tensors, texts: Sequence[str], composites: Mapping[str, Composite], said: Mapping[object, object]
) -> tuple[Edit, list[Finding]]:
    """The edit that ``--quantize`` stands for, and what is told of it. Raises EditError, UsageError."""
    scheme = scheme_of(texts)
    _check_plain(tensors, composites)
    usual, unfit = linear_weights(tensors, scheme, said.get("model_type"))
    chosen: dict[str, None] = {}
    for text in texts:
        glob = text.rpartition("=")[0]
        chosen |= dict.fromkeys(_chosen(glob, text, tensors, usual, scheme) if glob else usual)
    if not chosen:
        raise nothing_to_do(scheme, unfit)
    steps = tuple(Step((name,), scheme.names(name)) for name in tensors if name in chosen)
    first = steps[0]
    unfit = {name: why for name, why in unfit.items() if name not in chosen}
    told = [*_told(tensors, unfit), *_cautions(scheme, chosen)]
    return Edit("quantize", first.sources, first.targets, {"scheme": scheme.name}, steps), told


def apart_edits(
    tensors: Tensors, texts: Sequence[str], said: Mapping[object, object]
) -> tuple[list[Edit], list[Finding]]:
    """The edits that take stacks of experts apart which are to be quantized, and what is told. Raises UsageError."""
    globs = [text.rpartition("=")[0] for text in texts]

    def wanted(names: list[str]) -> bool:
        return any(not glob or matching(glob, names) for glob in globs)

    takes = scheme_of(texts).takes_experts
    made = apart(infos_of(tensors), said.get("model_type"), wanted) if takes else []
    if not made:
        return [], []
    few = plural(len(made[0].steps), "tensor of stacked experts is", "tensors of stacked experts are")
    message = f"{few} taken apart, as releases of this model that are quantized have them: {made[0].sources[0]!r}, …"
    return made, [Finding("experts-apart", "info", made[0].sources[0], message)]


def _chosen(glob: str, text: str, tensors: Tensors, usual: Sequence[str], scheme: Scheme) -> list[str]:
    """Of the usual ones those that a glob matches; or the one tensor of that name, whatever it is."""
    asked = some(glob, list(tensors), "--quantize", _NEW_NAMES)
    if re.search(r"[*?\[]", glob):
        return [name for name in asked if name in set(usual)]
    if why := scheme.unfit(tensors[glob].info):
        raise EditError(f"--quantize {text!r}: {glob!r} {why}, and cannot be {scheme.name}", hint="leave it as it is")
    return [glob]


def _check_plain(tensors: Tensors, composites: Mapping[str, Composite]) -> None:
    """Raise EditError where weights are quantized already."""
    found = quantized_in(infos_of(tensors))
    blocks = {tensor.info.dtype.name: name for name, tensor in tensors.items() if tensor.info.dtype.kind == "block"}
    own = [one for name, one in composites.items() if isinstance(one, Quantized)]
    if found or own:
        raise EditError(
            f"--quantize: the weights are quantized already: {next(iter(found), '') or own[0].summary}",
            hint="--dequantize makes plain weights of them first",
        )
    if blocks:
        raise EditError(
            f"--quantize: the weights are GGUF blocks, such as {', '.join(blocks)}",
            hint="--dtype BF16 turns them into floats first",
        )


def _told(tensors: Tensors, unfit: Mapping[str, str]) -> Iterator[Finding]:
    """What linear layers stay as they are."""
    experts = [name for name in unfit if EXPERT.search(name)]
    for left in ([name for name in unfit if name not in set(experts)], experts):
        if left:
            few = plural(len(left), "weight of a linear layer is", "weights of linear layers are")
            message = f"{few} not quantized: {left[0]!r} {unfit[left[0]]}"
            severity: Severity = "warning" if left is experts else "info"
            yield Finding("not-quantized", severity, left[0], message, None, ", ".join(left))
    if stacked := stacked_experts(tensors):
        few = plural(len(stacked), "tensor of stacked experts is", "tensors of stacked experts are")
        message = f"{few} not quantized, since they are not linear layers: {listed(stacked, 2)}"
        yield Finding("not-quantized", "warning", stacked[0], message, None, ", ".join(stacked))


def _cautions(scheme: Scheme, chosen: Collection[str]) -> Iterator[Finding]:
    """What is to be known of loading the result."""
    if scheme.caution:
        yield Finding("loading", "warning", "", scheme.caution)
    if scheme.experts_caution and (found := next(filter(EXPERT.search, chosen), None)):
        yield Finding("loading", "warning", found, scheme.experts_caution)


def quantization_config(tensors: Tensors) -> dict[str, Json] | None:
    """What a configuration has to say of tensors that are being quantized; None where none are."""
    done = {name: one for name, tensor in tensors.items() if (one := quantized_as(tensor)) in SCHEMES}
    if not done:
        return None
    name, scheme = next(iter(done.items()))
    return SCHEMES[scheme].config(kept_modules(tensors, done), before_quantizing(tensors[name]))


def asked_of_config(tensors: Tensors) -> Iterator[Finding]:
    """A word where no configuration is written that says how the weights are quantized."""
    config = quantization_config(tensors)
    if config is not None:
        yield Finding(
            "quantization-config", "info", "",
            f"loading it takes a config.json with a {CONFIG_KEY}: --with-files writes it, and --json shows it",
            json.dumps(config), None,
        )  # fmt: skip
