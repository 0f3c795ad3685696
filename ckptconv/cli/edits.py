"""The options of `convert` that change tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ckptconv.cli import completion
from ckptconv.cli.sections import SectionedCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckptconv.api.editing.edits import Edits
    from ckptconv.cli.options import Command

NAME_OPTIONS = ("strip-prefix", "add-prefix", "rename", "translate", "like", "lora", "rules")
"""The options whose order on the command line counts."""

_ORDER = "ckptconv.order"


class OrderedCommand(SectionedCommand):
    """A command that records the order of the options in `NAME_OPTIONS`, which click does not keep."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and put the order into ``ctx.meta``."""
        ctx.meta[_ORDER] = list(self._name_options_in(ctx, args))
        return super().parse_args(ctx, args)

    def _name_options_in(self, ctx: click.Context, args: list[str]) -> Iterator[str]:
        with_value = {
            text
            for option in self.get_params(ctx)
            if isinstance(option, click.Option) and not option.is_flag
            for text in option.opts
        }
        position = 0
        while position < len(args) and args[position] != "--":
            name, equals, _ = args[position].partition("=")
            if name in with_value:
                if name.removeprefix("--") in NAME_OPTIONS:
                    yield name.removeprefix("--")
                if not (equals and name.startswith("--")):
                    position += 1  # its value is the next argument
            position += 1


def options(command: Command) -> Command:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--select", metavar="GLOB", multiple=True,
        help="Take only these tensors, by SRC's names; * matches dots too. If only extras are taken, such as averaged "
        "weights, they become the model. Repeatable.",
    ),
    click.option("--drop", metavar="GLOB", multiple=True, help="Leave these tensors out. Repeatable."),
    click.option(
        "--dequantize", is_flag=True,
        help="Turn quantized weights into plain ones: FP8, MXFP4, NVFP4, compressed-tensors, GPTQ, AWQ, bitsandbytes, "
        "HQQ, MLX, torchao, ONNX, OpenVINO, Core ML, CTranslate2; in the type that config.json names, or --dtype.",
    ),
    click.option(
        "--remove-parametrizations", is_flag=True,
        help="Compute the weights that torch keeps in parts: pruned ones (weight_orig, weight_mask), and those of "
        "weight_norm and spectral_norm (weight_g, weight_v; parametrizations.weight.original0 …).",
    ),
    click.option("--strip-prefix", metavar="P", multiple=True, help="Remove P from the names that start with it."),
    click.option("--add-prefix", metavar="P", multiple=True, help="Put P before every name."),
    click.option(
        "--rename", metavar="REGEX=REPL", multiple=True,
        help="Substitute in every name, like Python's re.sub; split at the last '='. Repeatable.",
    ),
    click.option(
        "--translate", metavar="DIALECT", multiple=True, shell_complete=completion.words(completion.dialects),
        help="Give tensors other names and layouts: torch's, from Flax or Keras (flax, keras); transformers', from "
        "llama.cpp (in a folder, with config.json and tokenizer), mlx-lm, or Llama's and Whisper's own releases (gguf, "
        "mlx, meta, whisper); diffusers', from "
        "single files of diffusion models (ldm). Or make what others load. For llama.cpp: from a transformers folder, "
        "a GGUF with hyperparameters and tokenizer (to-gguf), and the file for its images or audio (to-mmproj); from "
        "a PEFT LoRA, an adapter (to-gguf, with --arch BASE/config.json). For ComfyUI and A1111: from a diffusers "
        "pipeline, or one of its models, a single file (to-ldm).",
    ),
    click.option(
        "--like", metavar="FILE", multiple=True, shell_complete=lambda _, __, start: completion.files(start),
        help="Give tensors the names and layouts of FILE, another framework's file of the same model: the way back "
        "from --translate. Weights trained in torch return to Keras (a .keras gets FILE's configuration) or Flax, or "
        "to mlx-lm's, Meta's or Whisper's names.",
    ),
    click.option(
        "--lora", metavar="ADAPTER[=SCALE]", multiple=True, shell_complete=lambda _, __, start: completion.files(start),
        help="Merge an adapter into the weights: a folder from PEFT or mlx-lm, a file from kohya, LyCORIS, diffusers "
        "or llama.cpp; SCALE multiplies its change. Like the options for names, it is applied in the order typed. "
        "Repeatable.",
    ),
    click.option(
        "--rules", metavar="FILE", multiple=True, shell_complete=lambda _, __, start: completion.files(start),
        help="Make the edits in FILE: TOML, or what 'ckptconv diff A B --json' prints. Repeatable.",
    ),
    click.option("--reverse", is_flag=True, help="Undo the --rules instead."),
    click.option(
        "--dtype", metavar="[GLOB=]DTYPE", multiple=True, shell_complete=completion.words(completion.dtypes),
        help="Cast floats to DTYPE, or whatever GLOB matches; the last that matches counts. For a GGUF also Q8_0, Q4_K "
        "and other blocks: 'model.gguf --dtype Q8_0' quantizes its matrices; for a whole model also one of llama.cpp's "
        "mixtures, such as Q4_K_M. Repeatable.",
    ),
    click.option(
        "--quantize", metavar="[GLOB=]SCHEME", multiple=True, shell_complete=completion.words(completion.schemes),
        help="Quantize the weights of linear layers, or those that GLOB matches, for other libraries to load: fp8, "
        "int8 (compressed-tensors, for transformers and vLLM: a scale per row), int8-a16, int4, int4-asym (per 128 "
        "columns of a row), fp8-block (DeepSeek, per 128 × 128), nf4, nf4-double (bitsandbytes), mlx-4bit, mlx-8bit "
        "(mlx-lm). 'qwen3/ qwen3-fp8/ --quantize fp8 --with-files' makes a folder to load. Repeatable.",
    ),
)  # fmt: skip


def parse_edits(
    context: click.Context, *, reverse: bool, dequantize: bool, remove_parametrizations: bool, **given: tuple[str, ...]
) -> Edits:
    """The edits that the options ask for, with those for names in the order in which they were typed."""
    from ckptconv.api.editing.edits import Edits
    from ckptconv.api.editing.lora import Lora
    from ckptconv.edits.name_rule import NameRule

    values = {name: list(given[name.replace("-", "_")]) for name in NAME_OPTIONS}
    names: list[str | Lora | NameRule] = []
    for option in context.meta.get(_ORDER, ()):
        if not values[option]:
            continue
        value = values[option].pop(0)
        if option == "rules":
            names.append(value)
        elif option == "lora":
            names.append(Lora.parse(value))
        else:
            names.append(NameRule(option, value))
    return Edits(
        select=given["select"], drop=given["drop"], dequantize=dequantize,
        remove_parametrizations=remove_parametrizations, names=names, reverse=reverse,
        dtype=given["dtype"], quantize=given["quantize"],
    )  # fmt: skip
