"""``ckptconv verify``."""

from __future__ import annotations

from typing import Literal, TypedDict, cast

import click

from ckptconv.cli import options, output
from ckptconv.cli.progress import Bar
from ckptconv.cli.sections import SectionedCommand

SECTIONS = {
    "Files and networks": "--from --from-a --from-b --arch --set --device",
    "What goes in": "--input --inputs --samples --seed",
    "How far outputs may differ": "--rtol --atol",
    "Later, or on another machine": "--save-outputs --force --outputs",
}

EPILOG = """\b
Exit codes:
  0  equivalent
  1  an output is past its bound
  2  trouble: a file, an architecture or a device that is missing, a network that does not run
\b
Examples:
  ckptconv verify model.pth model.onnx
  ckptconv verify model.pth model.safetensors --arch models.py:Net --input 'x:F32[N,3,224,224]'
  ckptconv verify old.onnx new.onnx --inputs batch.npz --rtol 1e-5
  ckptconv verify qwen2/ qwen2.gguf --arch qwen2/config.json --rtol 1e-2
\b
Later, or on another machine:
  ckptconv verify model.pth --save-outputs outputs.npz
  ckptconv verify model.onnx --outputs outputs.npz
"""


@click.command(
    cls=SectionedCommand, sections=SECTIONS, epilog=EPILOG, context_settings=options.SETTINGS, add_help_option=False
)
@click.argument("first", metavar="A", type=options.path_text)
@click.argument("second", metavar="[B]", type=options.path_text, required=False)
@options.arch
@options.set_("Give a param of the architecture its value.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where both run.")
@click.option(
    "--input", "inputs", metavar="SPEC", multiple=True,
    help="An input that the network does not show: 'x:F32[N,3,224,224]', 'ids:I64[N,T]<50257'. Repeatable.",
)  # fmt: skip
@click.option("--inputs", "arrays", metavar="FILE.npz", type=options.path_text, help="Inputs, instead of made-up ones.")
@click.option(
    "--samples", metavar="N", type=click.IntRange(1), default=32, show_default=True, help="Rows of the largest batch."
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(0), default=0, show_default=True, help="For the made-up inputs."
)
@click.option("--rtol", metavar="X", type=click.FloatRange(0), help="Allow X times a row's largest magnitude instead.")
@click.option("--atol", metavar="X", type=click.FloatRange(0), help="Allow differences up to X instead.")
@click.option(
    "--save-outputs", "saved", metavar="FILE.npz", type=options.path_text,
    help="Without B: run A, and save its inputs and outputs for comparing later.",
)  # fmt: skip
@click.option(
    "--outputs",
    "recorded",
    metavar="FILE.npz",
    type=options.path_text,
    help="Without B: run A on the inputs in FILE, and compare with the outputs saved there.",
)
@click.option("--force", is_flag=True, help="Replace the --save-outputs file if it exists.")
@options.from_each
@options.json_
@options.debug
@options.help_
def command(
    first: str, second: str | None, arch: str | None, settings: tuple[str, ...], device: str, inputs: tuple[str, ...],
    arrays: str | None, samples: int, seed: int, rtol: float | None, atol: float | None, saved: str | None,
    recorded: str | None, force: bool, from_format: str | None, from_a: str | None, from_b: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Do A and B compute the same?

    Both run on the same inputs: an ONNX graph in onnxruntime, weights in a torch module of their architecture. Outputs
    may differ by what rounding explains, which is estimated from runs in float64; the same weights in torch have to
    give the same bits. If outputs differ, verify names the first layer that does, and tensors that differ or were
    swapped.

    Running and comparing can be done separately: --save-outputs saves A's outputs, --outputs compares with them.
    """
    import ckptconv
    from ckptconv.cli.text import verify as text

    if [second, saved, recorded].count(None) != 2:
        raise click.UsageError("give one of B, --save-outputs and --outputs", click.get_current_context())
    if recorded and (arrays or _is_given("samples", "seed")):
        raise click.UsageError("--outputs brings its own inputs", click.get_current_context())
    if saved and (rtol is not None or atol is not None):
        raise click.UsageError("--rtol and --atol are for comparing", click.get_current_context())
    if second is None and from_b is not None:
        raise click.UsageError("--from-b needs B", click.get_current_context())
    first_format = from_a or from_format
    shared = _SharedArguments(
        arch=arch, settings=settings, device=cast("Literal['cpu', 'cuda']", device), inputs=inputs
    )
    with Bar("verifying") as bar:
        if saved is not None:
            result: ckptconv.Verification | ckptconv.Saved = ckptconv.save_outputs(
                first, saved, **shared, format=first_format, arrays=arrays, samples=samples, seed=seed, force=force,
                progress=bar,
            )  # fmt: skip
        elif recorded is not None:
            result = ckptconv.verify_outputs(
                first, recorded, **shared, format=first_format, rtol=rtol, atol=atol, progress=bar
            )
        else:
            assert second is not None
            result = ckptconv.verify(
                first, second, **shared, first_format=first_format, second_format=from_b or from_format, arrays=arrays,
                samples=samples, seed=seed, rtol=rtol, atol=atol, progress=bar,
            )  # fmt: skip
    if as_json:
        output.emit_json(result.to_dict())
    elif isinstance(result, ckptconv.Saved):
        output.emit_lines(text.saved(result))
    else:
        output.emit_lines(text.verification(result))
    return 0 if isinstance(result, ckptconv.Saved) or result.equivalent else 1


class _SharedArguments(TypedDict):
    """The arguments that all three calls take."""

    arch: str | None
    settings: tuple[str, ...]
    device: Literal["cpu", "cuda"]
    inputs: tuple[str, ...]


def _is_given(*names: str) -> bool:
    """Whether any of these options was given on the command line."""
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in names)
