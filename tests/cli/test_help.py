"""Every command and every option is documented, and help is quick to come."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click
import pytest

import ckptconv
from ckptconv.cli.arch import COMMANDS as ARCH
from ckptconv.cli.convert import LOSSES
from ckptconv.cli.main import COMMANDS, program

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Process, Run

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "ml_dtypes", "rich", "safetensors")


def every_command() -> dict[str, click.Command]:
    """Each command by what is typed for it, those of groups too."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = import_module(f"ckptconv.cli.{name}").command
        inner = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {word}": one for word, one in inner.items()} if inner else {name: command}
    return found


@pytest.mark.parametrize(("name", "command"), every_command().items())
def test_every_command_and_option_is_documented(run: Run, name: str, command: click.Command) -> None:
    text = run(*name.split(), "--help").stdout
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.opts[-1] in text
        else:
            assert parameter.metavar is not None
            assert parameter.metavar.strip("[].") in (command.help or "")
    assert {"--debug", "--help", "--json"} <= {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", ["", "arch", *every_command()])
def test_help_ends_with_exit_codes_and_an_example(run: Run, name: str) -> None:
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    assert result.stdout.index("Exit codes:") < result.stdout.index("Example")
    assert result.stdout.splitlines()[-1].startswith("    ckptconv ")


def test_the_options_of_long_commands_stand_under_headings(run: Run) -> None:
    for name in ("convert", "verify"):
        text = run(name, "--help").stdout
        assert text.index("\nFiles and ") < text.index("\nOther options:")
        others = text.partition("\nOther options:\n")[2].partition("\n\n")[0].splitlines()
        assert [re.split("  +", line)[1] for line in others] == ["--json", "--debug", "-h, --help"]
        columns = {match.end() for match in re.finditer(r"^  -\S.*?  +(?=\S)", text, re.MULTILINE)}
        assert len({column - text.rfind("\n", 0, column) for column in columns}) == 1


def test_every_loss_is_explained(run: Run) -> None:
    text = run("convert", "--help").stdout
    for code in LOSSES:
        assert re.search(rf"^    {code} +\w+", text, re.MULTILINE), code


def test_defaults_are_reported(run: Run) -> None:
    text = run("verify", "--help").stdout
    assert all(f"[default: {default}" in text for default in ("cpu", "32", "0"))


@pytest.mark.parametrize("group", [[], ["arch"]])
def test_without_a_command_the_help_is_shown_and_nothing_was_done(run: Run, group: list[str]) -> None:
    shown = run(*group)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr == run(*group, "--help").stdout


def test_help_may_be_typed_as_a_command(run: Run) -> None:
    assert run("help").stdout == run("--help").stdout
    assert run("help", "convert").stdout == run("convert", "--help").stdout
    assert run("help", "arch", "show").stdout == run("arch", "help", "show").stdout == run("arch", "show", "-h").stdout


def test_the_overview_names_every_command(run: Run) -> None:
    for group, commands in ((["--help"], COMMANDS), (["arch", "--help"], ARCH)):
        lines = [line.split(maxsplit=1) for line in run(*group).stdout.splitlines()]
        assert all([name, summary] in lines for name, summary in commands.items())
    assert list(import_module("ckptconv.cli.arch").command.commands) == list(ARCH)
    assert program.list_commands(click.Context(program)) == list(COMMANDS)


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").stdout == run("-V").stdout == f"ckptconv {ckptconv.__version__}\n"


def heavy_imports(*arguments: object) -> str:
    """Which heavy packages a run of the program has imported."""
    script = (
        "import sys\nfrom ckptconv.cli.main import run\n"
        f"sys.argv = {['ckptconv', *map(str, arguments)]!r}\n"
        "try:\n    run()\nexcept SystemExit as end:\n"
        f"    print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], end.code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "line",
    ["--help", "convert --help", "inspect --help", "validate --help", "arch --help", "formats", "arch list",
     "arch show resnet --set depths=[1,1] --set widths=[8,16]"],
)  # fmt: skip
def test_help_and_lists_import_nothing_heavy(line: str) -> None:
    assert heavy_imports(*line.split()) == "HEAVY [] 0"


@pytest.mark.parametrize("command", ["inspect", "arch infer"])
def test_reading_headers_imports_nothing_heavy(model: Path, command: str) -> None:
    assert heavy_imports(*command.split(), model) == "HEAVY [] 0"


def test_validating_imports_nothing_heavy(model: Path) -> None:
    assert heavy_imports("validate", model, "--arch", "mlp") == "HEAVY [] 1"
    assert heavy_imports("validate", model, "--arch", model, "--json") == "HEAVY [] 0"


def test_python_m_is_the_same_program(process: Process) -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"ckptconv {ckptconv.__version__}\n")
