"""Every command and every option is documented, and help is quick to come."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click
import pytest

import ckptconv
from ckptconv.cli.main import COMMANDS, program

if TYPE_CHECKING:
    from .conftest import Process, Run

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "ml_dtypes", "rich", "safetensors")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(run: Run, name: str) -> None:
    command = import_module(f"ckptconv.cli.{name}").command
    text = run(name, "--help").stdout
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.opts[-1] in text
        else:
            assert parameter.metavar.strip("[].") in (command.help or "")
    assert {"--debug", "--help", "--json"} <= {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_ends_with_exit_codes_and_an_example(run: Run, name: str | None) -> None:
    result = run(*([name] if name else []), "--help")
    assert result.exit_code == 0
    assert result.stdout.index("Exit codes:") < result.stdout.index("Example")
    assert result.stdout.splitlines()[-1].startswith("    ckptconv ")


def test_the_overview_names_every_command(run: Run) -> None:
    text = run("--help").stdout
    assert all(f"  {name}  {summary}" in text for name, summary in COMMANDS.items())
    assert program.list_commands(click.Context(program)) == list(COMMANDS)


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").stdout == f"ckptconv {ckptconv.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["inspect", "--help"], ["formats"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom ckptconv.cli.main import run\n"
        f"sys.argv = {['ckptconv', *arguments]!r}\n"
        "try:\n    run()\nexcept SystemExit:\n"
        f"    print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_inspecting_headers_imports_nothing_heavy(model: object) -> None:
    script = (
        "import sys\nfrom ckptconv.cli.main import run\n"
        f"sys.argv = ['ckptconv', 'inspect', {str(model)!r}]\n"
        "try:\n    run()\nexcept SystemExit:\n"
        f"    print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_python_m_is_the_same_program(process: Process) -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"ckptconv {ckptconv.__version__}\n")
