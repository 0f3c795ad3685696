"""``ckptconv convert``."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, cast

import click

from ckptconv.cli import completion, edits, options, output, trouble
from ckptconv.cli.progress import Bar
from ckptconv.errors import NotEquivalentError

if TYPE_CHECKING:
    from ckptconv.api.converting.conversion import Conversion
    from ckptconv.core.metadata import MetaNode

LOSSES = {
    "metadata": "values that are neither tensors nor bookkeeping, such as settings",
    "extras": "tensors outside of the model, such as an optimizer's",
    "opaque": "objects of classes that are not built here, and calls that are not made",
    "tie": "that several names share one tensor",
    "composite": "that several tensors form one quantized or sparse tensor",
    "dtype": "an element type; its bytes are kept, as U8",
    "overflow": "finite values that would become infinite or NaN",
    "all": "any of these",
}
"""What --allow-loss accepts."""

_LOSSES = "\n".join(f"  {code:9}  {loss}" for code, loss in LOSSES.items())

SECTIONS = {
    "Files and formats": "--from --to -O --shard-size --with-files --force --dry-run",
    "What is kept": "--bare --meta --allow-loss",
    "Which tensors": "--select --drop",
    "Their names": "--strip-prefix --add-prefix --rename --translate --like --rules --reverse",
    "Their values": "--dtype --dequantize --remove-parametrizations --quantize --lora",
    "Architecture": "--arch --set --with-params --verify --input",
}

EPILOG = f"""\b
Losses that --allow-loss agrees to:
{_LOSSES}
\b
Exit codes:
  0    converted; with --dry-run, checked
  1    with --verify: the result does not compute the same; DST is as it was
  2    trouble: usage, unreadable, damaged, refused; nothing was written
  130  interrupted; nothing was written, unless it says that DST is whole
\b
Examples:
  ckptconv convert checkpoint.pth model.safetensors
  ckptconv convert model.safetensors model.pth --meta input_size=784 --meta 'hidden_layers=[512, 256]'
  ckptconv convert training.ckpt weights.safetensors --bare
  ckptconv convert raw.pth with-metadata.pth --arch mlp --with-params
  ckptconv convert model.gguf model.safetensors --translate gguf --dtype BF16 --bare
  ckptconv convert model.gguf model/ --translate gguf --dtype BF16
  ckptconv convert qwen3/ qwen3-fp8/ --quantize fp8 --with-files
  ckptconv convert base/ merged/ --lora adapter/ --lora style.safetensors=0.8 --with-files
  ckptconv convert model/ model.gguf --translate to-gguf --dtype F16
  ckptconv convert adapter/ adapter.gguf --translate to-gguf --arch base/config.json
  ckptconv convert model/ mmproj-model.gguf --translate to-mmproj --dtype F16
  ckptconv convert trained.pth new.keras --like model.keras
  ckptconv convert pipeline/ sdxl.safetensors --translate to-ldm --dtype F16
  ckptconv convert checkpoint.pth model.onnx --arch mlp --verify
  ckptconv convert model.safetensors model/ --shard-size 5GB
  ckptconv convert model.safetensors model.gguf --dtype Q8_0 --shard-size 2GB
  ckptconv convert model/ model.pth
  for f in *.pth; do ckptconv convert "$f" "${{f%.pth}}.safetensors"; done
  ckptconv convert training.ckpt half.safetensors --strip-prefix module. --drop '*.num_batches_tracked' --dtype BF16
"""


def _loss_code(word: str) -> str:
    if word not in LOSSES:
        raise trouble.unknown_word_error("loss", word, LOSSES, otherwise=f"the losses are {', '.join(LOSSES)}")
    return word


@click.command(
    cls=edits.OrderedCommand, sections=SECTIONS, epilog=EPILOG, context_settings=options.SETTINGS, add_help_option=False
)
@click.argument("source", metavar="SRC", type=options.path_text)
@click.argument("target", metavar="DST", type=options.path_text)
@options.from_("SRC")
@click.option(
    "--to", "to_format", metavar="FORMAT", shell_complete=completion.words(completion.written_formats),
    help="Write this format, whatever DST's suffix says.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@click.option("--dry-run", is_flag=True, help="Write nothing; list what would be lost.")
@click.option(
    "--verify", is_flag=True,
    help="Before DST gets its name, run SRC and the result on the same inputs; 'ckptconv verify --help' says how.",
)  # fmt: skip
@click.option("--bare", is_flag=True, help="Write only the model's tensors: no metadata, no other tensors.")
@click.option(
    "--meta", metavar="K=V", type=options.key_value, multiple=True,
    help="Set a top-level key of the metadata. V is read as JSON if possible, else as a string. Repeatable.",
)  # fmt: skip
@click.option(
    "--allow-loss", metavar="CODE", type=_loss_code, multiple=True, shell_complete=completion.words(lambda: LOSSES),
    help="Agree to this loss: one of the codes below. Repeatable.",
)  # fmt: skip
@click.option(
    "--with-params", is_flag=True,
    help="Write the architecture's required params into the metadata; without --arch it is chosen by evidence.",
)  # fmt: skip
@edits.options
@click.option(
    "--shard-size", metavar="SIZE",
    help="Split tensors of more than SIZE in all (5GB, 500MB, 2GiB, or bytes) into several files: safetensors and "
    "torch with an index, as Hugging Face does (a DST that ends in / gets its names), GGUF as llama.cpp does: "
    "DST-00001-of-0000N.gguf. Up to SIZE, it is one plain file.",
)  # fmt: skip
@click.option(
    "--with-files", is_flag=True,
    help="Also copy the files beside SRC's weights (configuration, tokenizer, chat templates, sentence-transformers "
    "modules; no code); config.json gets the new type. For --translate gguf, what a GGUF's metadata gives of them.",
)  # fmt: skip
@click.option(
    "-O", "format_options", metavar="KEY=VALUE", type=options.pair, multiple=True,
    help="An option of DST's format; 'ckptconv formats NAME' lists them. Repeatable.",
)  # fmt: skip
@click.option(
    "--input", "inputs", metavar="SPEC", multiple=True,
    help="With --verify, or with --arch FILE.py:CLASS and an ONNX target: an input, 'x:F32[N,3,224,224]' or "
    "'ids:I64[N,T]<50257'. Repeatable.",
)  # fmt: skip
@options.arch
@options.set_("With --arch or --with-params: give a param its value.")
@options.json_
@options.debug
@options.help_
def command(
    source: str, target: str, from_format: str | None, to_format: str | None, force: bool, dry_run: bool, verify: bool,
    bare: bool, meta: tuple[tuple[str, MetaNode], ...], allow_loss: tuple[str, ...], with_params: bool,
    format_options: tuple[tuple[str, str], ...], inputs: tuple[str, ...], arch: str | None, settings: tuple[str, ...],
    as_json: bool, shard_size: str | None, with_files: bool, **editing: Any,
) -> int:  # fmt: skip
    """Convert the checkpoint SRC into a new file DST.

    SRC's format is recognised by its bytes, DST's by its suffix. What DST could not give back is listed and refused,
    unless you agree with --allow-loss, or ask for only the model's tensors with --bare. With --arch or --with-params,
    a SRC that does not fit its architecture is refused too. DST appears whole or not at all; with --verify, only if it
    computes the same.
    """
    import ckptconv

    metadata = dict(meta)
    if len(metadata) < len(meta):
        raise click.UsageError("--meta sets the same key twice", click.get_current_context())
    if len(dict(format_options)) < len(format_options):
        raise click.UsageError("-O sets the same option twice", click.get_current_context())
    if settings and arch is None and not with_params:
        raise click.UsageError("--set needs --arch or --with-params", click.get_current_context())
    before = _identity(target)
    try:
        with Bar("converting") as bar:
            result = ckptconv.convert(
                source,
                target,
                from_format=from_format,
                to_format=to_format,
                force=force,
                dry_run=dry_run,
                bare=bare,
                metadata=metadata,
                allow_loss=allow_loss,
                arch=arch,
                settings=settings,
                with_params=with_params,
                inputs=inputs,
                options=dict(format_options),
                shard_size=shard_size,
                edits=edits.parse_edits(click.get_current_context(), **editing),
                verify=verify,
                with_files=with_files,
                progress=bar,
            )
    except NotEquivalentError as error:
        discarded = cast("Conversion", error.result)
        _show(discarded, dry_run=dry_run, as_json=as_json)
        return 1
    except KeyboardInterrupt as stop:
        if _identity(target) != before:  # interrupted after the commit; during it, the target adds such a note itself
            stop.add_note(f"{target} is written, and whole")
        stop.add_note("nothing was written")  # only the first note is shown
        raise
    _show(result, dry_run=dry_run, as_json=as_json)
    return 0


def _show(result: Conversion, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        output.emit_json(result.to_dict())
    else:
        from ckptconv.cli.text import convert as text
        from ckptconv.cli.text.verify import verification

        lines = text.conversion(result, dry_run=dry_run)
        if result.verification is not None:
            lines += verification(result.verification)
            lines += [] if result.verification.equivalent else ["nothing was written"]
        output.emit_lines(lines)


def _identity(path: str) -> tuple[int, ...] | None:
    """What tells a file from its replacement; None if it is not a file: a folder changes as it is filled."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
