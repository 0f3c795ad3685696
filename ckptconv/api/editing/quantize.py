"""``--quantize``: which weights, the edits, what to report, and the quantization_config that the result needs."""

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
from ckptconv.edits.select import matching, matching_some
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.composite import Composite
    from ckptconv.core.report import Severity
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.quantizers.schemes import Scheme

    Tensors = Mapping[str, LazyTensor]

_NEW_NAMES = "names are those that the target gets: ckptconv convert --dry-run shows them"


def scheme_of(texts: Sequence[str]) -> Scheme:
    """The scheme that all of these ask for. Raises UsageError for an unknown one, or for several."""
    names = list(dict.fromkeys(text.rpartition("=")[2] for text in texts))
    for name in names:
        if name not in SCHEMES:
            raise UsageError(f"--quantize: there is no scheme {name!r}", hint=f"one of {', '.join(SCHEMES)}")
    if len(names) > 1:
        raise UsageError(
            f"--quantize: {' and '.join(names)} in one file", hint="a configuration says one scheme for all"
        )
    return SCHEMES[names[0]]


def quantize_edit(
    tensors: Tensors, texts: Sequence[str], stated: Mapping[object, object]
) -> tuple[Edit, list[Finding]]:
    """The edit that ``--quantize`` stands for, and findings about it. Raises EditError, UsageError."""
    scheme = scheme_of(texts)
    quantizable, unfit = linear_weights(tensors, scheme, stated.get("model_type"))
    chosen: dict[str, None] = {}
    for text in texts:
        glob = text.rpartition("=")[0]
        chosen |= dict.fromkeys(_matching_weights(glob, text, tensors, quantizable, scheme) if glob else quantizable)
    if not chosen:
        raise nothing_to_do(scheme, unfit)
    steps = tuple(Step((name,), scheme.names(name)) for name in tensors if name in chosen)
    first = steps[0]
    unfit = {name: why for name, why in unfit.items() if name not in chosen}
    findings = [*_unquantized_findings(tensors, unfit), *_loading_cautions(scheme, chosen)]
    return Edit("quantize", first.sources, first.targets, {"scheme": scheme.name}, steps), findings


def unstack_edits(
    tensors: Tensors, texts: Sequence[str], stated: Mapping[object, object]
) -> tuple[list[Edit], list[Finding]]:
    """The edits that split stacks of experts into the weights to quantize, and findings. Raises UsageError."""
    globs = [text.rpartition("=")[0] for text in texts]

    def any_matches(names: list[str]) -> bool:
        return any(not glob or matching(glob, names) for glob in globs)

    if not scheme_of(texts).takes_experts:
        return [], []
    edits = apart(infos_of(tensors), stated.get("model_type"), any_matches)
    if not edits:
        return [], []
    first = edits[0]
    count = plural(len(first.steps), "tensor of stacked experts is", "tensors of stacked experts are")
    message = f"{count} taken apart, as releases of this model that are quantized have them: {first.sources[0]!r}, …"
    return edits, [Finding("experts-apart", "info", first.sources[0], message)]


def _matching_weights(glob: str, text: str, tensors: Tensors, quantizable: Sequence[str], scheme: Scheme) -> list[str]:
    """The quantizable weights that a glob matches; or, without wildcards, the tensor of that name, of any layer."""
    asked = matching_some(glob, list(tensors), "--quantize", _NEW_NAMES)
    if re.search(r"[*?\[]", glob):
        return [name for name in asked if name in set(quantizable)]
    if why := scheme.unfit(tensors[glob].info):
        raise EditError(f"--quantize {text!r}: {glob!r} {why}, and cannot be {scheme.name}", hint="leave it as it is")
    return [glob]


def check_not_quantized(tensors: Tensors, composites: Mapping[str, Composite], source: Checkpoint) -> None:
    """Raise EditError if weights are quantized already: by name and type, or as the notes of the source say of tensors
    that are still as they were there.
    """
    noted = [one for one in source.notes.quantized if one.values in tensors]
    unchanged = [one.called for one in noted if tensors[one.values] is source.get(one.values)]
    kinds = [*quantized_in(infos_of(tensors)), *unchanged]
    block_types = dict.fromkeys(
        tensor.info.dtype.name for tensor in tensors.values() if tensor.info.dtype.kind == "block"
    )
    quantized = [whole for whole in composites.values() if isinstance(whole, Quantized)]
    if kinds or quantized:
        raise EditError(
            f"--quantize: the weights are quantized already: {next(iter(kinds), '') or quantized[0].summary}",
            hint="--dequantize makes plain weights of them first",
        )
    if block_types:
        raise EditError(
            f"--quantize: the weights are GGUF blocks, such as {', '.join(block_types)}",
            hint="--dtype BF16 turns them into floats first",
        )


def _unquantized_findings(tensors: Tensors, unfit: Mapping[str, str]) -> Iterator[Finding]:
    """The linear layers and experts that are not quantized; `unfit` says why, by name."""
    experts = [name for name in unfit if EXPERT.search(name)]
    others = [name for name in unfit if name not in set(experts)]
    severity: Severity
    for severity, names in (("info", others), ("warning", experts)):
        if names:
            count = plural(len(names), "weight of a linear layer is", "weights of linear layers are")
            message = f"{count} not quantized: {names[0]!r} {unfit[names[0]]}"
            yield Finding("not-quantized", severity, names[0], message, None, ", ".join(names))
    if stacked := stacked_experts(tensors):
        count = plural(len(stacked), "tensor of stacked experts is", "tensors of stacked experts are")
        message = f"{count} not quantized, since they are not linear layers: {listed(stacked, 2)}"
        yield Finding("not-quantized", "warning", stacked[0], message, None, ", ".join(stacked))


def _loading_cautions(scheme: Scheme, chosen: Collection[str]) -> Iterator[Finding]:
    """What a user should know about loading the result."""
    if scheme.caution:
        yield Finding("loading", "warning", "", scheme.caution)
    first_expert = next(filter(EXPERT.search, chosen), None)
    if scheme.experts_caution and first_expert:
        yield Finding("loading", "warning", first_expert, scheme.experts_caution)


def quantization_config(tensors: Tensors) -> dict[str, Json] | None:
    """The quantization_config for tensors that are being quantized; None if none are."""
    schemes = {name: scheme for name, tensor in tensors.items() if (scheme := quantized_as(tensor)) in SCHEMES}
    if not schemes:
        return None
    name, scheme = next(iter(schemes.items()))
    return SCHEMES[scheme].config(kept_modules(tensors, schemes), before_quantizing(tensors[name]))


def config_finding(tensors: Tensors) -> Iterator[Finding]:
    """The hint to write a quantization_config, for a result without a configuration."""
    config = quantization_config(tensors)
    if config is not None:
        yield Finding(
            "quantization-config", "info", "",
            f"loading it takes a config.json with a {CONFIG_KEY}: --with-files writes it, and --json shows it",
            json.dumps(config), None,
        )  # fmt: skip
