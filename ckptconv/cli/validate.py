"""``ckptconv validate``."""

from __future__ import annotations

import click

from ckptconv.cli import options
from ckptconv.cli.each import Answer, ask_each
from ckptconv.cli.progress import Bar

EPILOG = """\b
Exit codes:
  0  every SRC fits
  1  a SRC does not fit, or contradicts itself
  2  trouble: usage, unreadable, no architecture found; other files are still checked
\b
Examples:
  ckptconv validate checkpoint.pth
  ckptconv validate raw.pth --arch mlp --set 'hidden_layers=[512, 256]'
  ckptconv validate mine.safetensors --arch theirs.safetensors
  ckptconv validate model/ --arch model/config.json
  ckptconv validate qwen2.gguf
  ckptconv validate --values --json checkpoint.pth
"""


@click.command(epilog=EPILOG, context_settings=options.SETTINGS, add_help_option=False)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=options.path_text)
@options.arch
@options.set_("Give a param of the architecture its value; it outranks what the file says.")
@click.option(
    "--values", is_flag=True, help="Look for NaN, Inf, all-zero weights, negative variances. Reads all values."
)
@options.from_("each SRC")
@options.json_
@options.debug
@options.help_
@click.pass_obj
def command(
    debug: bool, sources: tuple[str, ...], arch: str | None, settings: tuple[str, ...], values: bool,
    from_format: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Check whether each SRC fits its architecture: names, shapes, ties, params; and if not, say why.

    Without --arch the architecture is chosen by evidence: a note in the file, a config.json beside it, its metadata,
    its tensors' names. If the library lacks a config.json's class, the installed transformers builds it. SRC fits if
    load_state_dict(strict=True) would accept it. Only headers are read. A model from Flax, Keras, mlx-lm or
    llama.cpp is read under the names that --translate gives it, and quantized weights as --dequantize makes them;
    validate says so.
    """
    import ckptconv

    def ask(source: str) -> Answer:
        with Bar("reading") as bar:
            result = ckptconv.validate(
                source, arch=arch, settings=settings, format=from_format, values=values, progress=bar
            )
        code = int(not result.valid)
        if as_json:
            return Answer(result.to_dict(), [], code)
        from ckptconv.cli.text import validate as text

        return Answer({}, text.page(result, titled=len(sources) > 1), code)

    return ask_each(sources, ask, debug=debug, as_json=as_json, apart=False)
