"""``ckptconv verify``."""

from __future__ import annotations

from typing import Literal, cast

import click

from ckptconv.cli import options, output, render_verify
from ckptconv.cli.progress import Bar

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
"""


@click.command(epilog=EPILOG, context_settings=options.SETTINGS, add_help_option=False)
@click.argument("first", metavar="A", type=options.path_text)
@click.argument("second", metavar="B", type=options.path_text)
@options.arch
@options.set_("Give a param of the architecture its value.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where both run.")
@click.option(
    "--input", "inputs", metavar="SPEC", multiple=True,
    help="An input that the network does not show: 'x:F32[N,3,224,224]', 'ids:I64[N,T]<50257'. Repeatable.",
)  # fmt: skip
@click.option("--inputs", "arrays", metavar="FILE.npz", type=options.path_text, help="Inputs, instead of made-up ones.")
@click.option("--samples", metavar="N", type=click.IntRange(1), default=32, help="Rows of the largest batch.")
@click.option("--seed", metavar="N", type=click.IntRange(0), default=0, help="Of the made-up inputs.")
@click.option("--rtol", metavar="X", type=click.FloatRange(0), help="Allow X times a row's largest magnitude instead.")
@click.option("--atol", metavar="X", type=click.FloatRange(0), help="Allow differences up to X instead.")
@options.json_
@options.debug
@options.help_
def command(
    first: str, second: str, arch: str | None, settings: tuple[str, ...], device: str, inputs: tuple[str, ...],
    arrays: str | None, samples: int, seed: int, rtol: float | None, atol: float | None, as_json: bool,
) -> int:  # fmt: skip
    """Do A and B compute the same?

    Both run on the same inputs: an ONNX graph in onnxruntime, weights in a torch module of their architecture. Outputs
    may differ by what rounding explains, which is estimated from runs in float64; the same weights in torch have to
    give the same bits. Where outputs differ, tensors that differ or changed places are named.
    """
    from ckptconv import api

    with Bar("verifying") as bar:
        result = api.verify(
            first, second, arch=arch, settings=settings, device=cast("Literal['cpu', 'cuda']", device), inputs=inputs,
            arrays=arrays, samples=samples, seed=seed, rtol=rtol, atol=atol, progress=bar,
        )  # fmt: skip
    if as_json:
        output.emit_json(result.to_dict())
    else:
        output.emit_lines(render_verify.verification(result))
    return 0 if result.equivalent else 1
