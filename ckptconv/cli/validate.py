"""``ckptconv validate``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ckptconv.cli import options, output, trouble
from ckptconv.cli.progress import Bar
from ckptconv.errors import CkptconvError, UsageError

if TYPE_CHECKING:
    from ckptconv.api.fitting.compare import Validation
    from ckptconv.core.spelling import Json

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
    load_state_dict(strict=True) would accept it. Only headers are read. A llama.cpp GGUF is read under transformers'
    names, and quantized weights as --dequantize makes them; validate says so.
    """
    question = _Question(arch, settings, values, from_format)
    documents: list[Json] = []
    worst = 0
    for source in sources:
        try:
            result = question.ask(source)
        except (CkptconvError, MemoryError, RecursionError) as error:
            if len(sources) == 1 or (isinstance(error, UsageError) and error.path is None):
                raise
            ours = trouble.understood(error).at(source)
            trouble.report(ours, debug=debug)
            documents.append({"path": source, "error": trouble.as_dict(ours)})
            worst = 2
            continue
        worst = max(worst, int(not result.valid))
        if as_json:
            documents.append(result.to_dict())
        else:
            _show(result, titled=len(sources) > 1)
    if as_json:
        output.emit_json({"files": documents} if len(sources) > 1 else documents[0])
    return worst


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of every file."""

    arch: str | None
    settings: tuple[str, ...]
    values: bool
    from_format: str | None

    def ask(self, source: str) -> Validation:
        import ckptconv

        with Bar("reading") as bar:
            return ckptconv.validate(
                source, arch=self.arch, settings=self.settings, format=self.from_format, values=self.values,
                progress=bar,
            )  # fmt: skip


def _show(result: Validation, *, titled: bool) -> None:
    from ckptconv.cli import render_validate

    output.emit_lines(render_validate.page(result, titled=titled))
