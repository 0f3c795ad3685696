"""``ckptconv arch``: the commands list, show and infer."""

from __future__ import annotations

import click

from ckptconv.cli import completion, options, output
from ckptconv.cli.groups import Group
from ckptconv.core.report import errors_among

COMMANDS = {
    "list": "List the architectures in the library.",
    "show": "Show the params of an architecture, and its tensors.",
    "infer": "Write a spec from checkpoints of one family.",
}
"""Every command of the group, with the first line of its help."""

EPILOG = """\b
Exit codes:
  0  fine
  1  arch show: the params contradict the architecture
  2  trouble: usage, unreadable, refused
\b
Examples:
  ckptconv arch list
  ckptconv arch show mlp --set input_size=784 --set 'hidden_layers=[512, 256]' --set output_size=10
  ckptconv arch infer small.pth large.pth -o family.toml
"""


class _Arch(Group):
    """The group of commands about architecture specs."""

    summaries = COMMANDS


@click.group(cls=_Arch, epilog=EPILOG, context_settings=options.SETTINGS, no_args_is_help=False, add_help_option=False)
@options.help_
def command() -> None:
    """List, show and infer architecture specs: the tensors of a family of models, as data."""


@command.command(
    "list", epilog="\b\nExit codes:\n  0  fine\n\b\nExample:\n  ckptconv arch list\n", add_help_option=False
)
@options.json_
@options.debug
@options.help_
def list_(as_json: bool) -> int:
    """List the architectures in the library, which --arch and 'arch show' accept by name."""
    import ckptconv

    architectures = ckptconv.architectures()
    if as_json:
        specs = [architecture.spec for architecture in architectures]
        entries = [
            {"name": spec.name, "summary": spec.summary, "required": spec.required, "digest": spec.digest}
            for spec in specs
        ]
        output.emit_json({"architectures": entries})
        return 0
    from ckptconv.cli.text import arch as text

    output.emit_lines(text.listing(architectures))
    return 0


SHOW_EPILOG = """\b
Exit codes:
  0  fine
  1  the params contradict the architecture
  2  trouble: there is no such architecture, a malformed spec, params missing
\b
Examples:
  ckptconv arch show resnet
  ckptconv arch show mine.toml --set width=64 --json
"""


@command.command("show", epilog=SHOW_EPILOG, context_settings=options.SETTINGS, add_help_option=False)
@click.argument(
    "name",
    metavar="NAME",
    type=options.path_text,
    shell_complete=completion.words(completion.architectures, or_files=True),
)
@options.set_("Give a param its value; all required ones together show the tensors.")
@options.json_
@options.debug
@options.help_
def show(name: str, settings: tuple[str, ...], as_json: bool) -> int:
    """Show the params that describe the architecture NAME, and its variants. NAME may be a SPEC.toml.

    With a value for every required param: every tensor, with its shape, ties, and whether it may be absent.
    """
    import ckptconv

    architecture = ckptconv.architecture(name, settings=settings)
    if as_json:
        output.emit_json(architecture.to_dict())
    else:
        from ckptconv.cli.text import arch as text

        output.emit_lines(text.page(architecture, name))
    return int(architecture.table is not None and bool(errors_among(architecture.table.findings)))


INFER_EPILOG = """\b
Exit codes:
  0  fine
  2  trouble: unreadable, no rule describes these checkpoints, the target exists
\b
Examples:
  ckptconv arch infer small.pth large.pth
  ckptconv arch infer small.pth large.pth -o family.toml
"""


@command.command("infer", epilog=INFER_EPILOG, context_settings=options.SETTINGS, add_help_option=False)
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=options.path_text)
@click.option("-o", "--output", "target", metavar="SPEC.toml", type=options.path_text, help="Write the spec to a file.")
@click.option("--force", is_flag=True, help="Replace SPEC.toml if it exists.")
@options.from_("each SRC")
@options.json_
@options.debug
@options.help_
def infer(sources: tuple[str, ...], target: str | None, force: bool, from_format: str | None, as_json: bool) -> int:
    """Write an architecture spec that every SRC fits, to standard output, or to a file with -o.

    Repeated layers become loops, and dimensions get names. One SRC shows which sizes are equal; two sizes of one
    family show which of them are so only by chance: give two or more if you can. Only headers are read.
    """
    import ckptconv

    inferred = ckptconv.infer_architecture(sources, target=target, force=force, format=from_format)
    if as_json:
        output.emit_json(inferred.to_dict())
    elif target is None:
        output.emit(inferred.text)
    else:
        from ckptconv.cli.text import arch as text

        output.emit_lines(text.inferred(inferred))
    return 0
