"""What a shell is offered on Tab, by the protocol of click's own scripts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def offered(line: str) -> list[str]:
    """What bash would get for a line, the cursor at its end."""
    words = line.split(" ")
    environment = {**os.environ, "_CKPTCONV_COMPLETE": "bash_complete", "COMP_WORDS": line}
    command = [sys.executable, "-m", "ckptconv"]
    done = subprocess.run(
        command, env={**environment, "COMP_CWORD": str(len(words) - 1)}, capture_output=True, check=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ckptconv ins", ["plain,inspect"]),
        ("ckptconv arch i", ["plain,infer"]),
        ("ckptconv convert --dry", ["plain,--dry-run"]),
        ("ckptconv convert mod", ["file,mod"]),
        ("ckptconv validate a.pth b", ["file,b"]),
        ("ckptconv convert a b --to safetensors-", ["plain,safetensors-sharded"]),
        ("ckptconv convert a b --from torchs", ["plain,torchscript"]),
        ("ckptconv diff a b --from-b torchs", ["plain,torchscript"]),
        ("ckptconv convert a b --arch mlp", ["plain,mlp"]),
        ("ckptconv convert a b --arch ./models.py", ["file,./models.py"]),
        ("ckptconv convert a b --allow-loss op", ["plain,opaque"]),
        ("ckptconv convert a b --translate fl", ["plain,flax"]),
        ("ckptconv convert a b --translate to", ["plain,to-gguf", "plain,to-ldm", "plain,to-mmproj"]),
        ("ckptconv convert a b --dtype BF", ["plain,BF16"]),
        ("ckptconv convert a b --dtype Q8", ["plain,Q8_0"]),
        ("ckptconv convert a b --quantize f", ["plain,fp8", "plain,fp8-block"]),
        ("ckptconv convert a b --rules ed", ["file,ed"]),
        ("ckptconv nonsense x", []),
        ("ckptconv convert a b --to nonsense", []),
        ("ckptconv convert a b --allow-loss nonsense", []),
    ],
)
def test_what_is_offered(line: str, expected: list[str]) -> None:
    assert offered(line) == expected


def test_all_commands_are_offered_where_none_is_begun() -> None:
    from ckptconv.cli.main import COMMANDS

    assert offered("ckptconv ") == [f"plain,{name}" for name in COMMANDS]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_a_shell_evaluates(shell: str) -> None:
    environment = {**os.environ, "_CKPTCONV_COMPLETE": f"{shell}_source"}
    done = subprocess.run(
        [sys.executable, "-m", "ckptconv"], env=environment, capture_output=True, check=True, text=True
    )
    assert "_CKPTCONV_COMPLETE" in done.stdout
