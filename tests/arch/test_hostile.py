"""A spec from a stranger can be slow, huge or endless on purpose: it is refused within a second, and never run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptconv.arch.load import load_spec, parse_text
from ckptconv.arch.solver import solve
from ckptconv.arch.table import expand
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {f"a.{i}.w": TensorInfo.of(DType.F32, (i + 1,)) for i in range(3)}


def spec(body: str) -> str:
    return f'spec = 1\nname = "hostile"\n{body}\n'


DOUBLING = "\n".join(f'd{i} = "[*d{i + 1}, *d{i + 1}]"' for i in range(60))
ADDING = "\n".join(f'd{i} = "d{i + 1} + d{i + 1} + i"' for i in range(60))
CHAIN = "\n".join(f'd{i} = "d{i + 1} + 1"' for i in range(900))
FACTORS = " * ".join(f"(p{i} + q{i})" for i in range(40))

HOSTILE = {
    "power": '[params]\nn = { type = "int", default = "9**9**9" }',
    "deep brackets": f'[let]\nx = "{"(" * 400}1{")" * 400}"',
    "deep lists": f'[let]\nx = "{"[" * 400}1{"]" * 400}"',
    "deep not": f'[let]\nx = "{"not " * 200}true"',
    "long chain": f'[let]\nx = "{"1+" * 5000}1"',
    "deep subscript": f'[let]\nx = "[1]{"[0]" * 300}"',
    "deep toml": f"x = {'[' * 5000}{']' * 5000}",
    "deep dotted key": f"{'.'.join('a' * 20000)} = 1",
    "many dotted keys": "\n".join(f"{'.'.join(f'k{i}' for _ in range(20))} = 1" for i in range(4000)),
    "huge text": f'summary = "{"x" * 3_000_000}"',
    "huge integer": "[params]\nn = { type = 'int', default = 1" + "0" * 5000 + " }",
    "huge literal": '[let]\nx = "1' + "0" * 400 + '"',
    "overflow": '[let]\nx = "4611686018427387904 * 4"\n[repeat]\ni = "x"\n[tensors]\n"a.{i}.w" = "1"',
    "loop over 10^9": '[repeat]\ni = "1000000000"\n[tensors]\n"a.{i}.w" = "1"',
    "loop over 10^18": '[repeat]\ni = "1000000000000000000"\n[tensors]\n"a.{i}.w" = "1"',
    "backwards loop": '[repeat]\ni = "0:1000000000:1"\n[tensors]\n"a.{i}.w" = "1"',
    "nested loops": '[repeat]\ni = "9999"\nj = "9999"\nk = "9999"\n[tensors]\n"a.{i}.{j}.{k}.w" = "1"',
    "dependent loops": '[repeat]\ni = "100000"\nj = "i"\n[tensors]\n"a.{i}.{j}.w" = "1"',
    "many empty loops": '[repeat]\ni = "900000"\nj = "0"\nk = "i"\n[tensors]\n'
    + "\n".join(f'"a{n}.{{i}}.{{j}}.{{k}}.w" = "1"' for n in range(500)),
    "doubling lists": f'[let]\n{DOUBLING}\nd60 = "[1]"\n[tensors]\n"a.w" = "len(d0)"',
    "doubling sums": f'[repeat]\ni = "3"\n[let]\n{ADDING}\nd60 = "i"\n[tensors]\n"a.{{i}}.w" = "d0"',
    "long let chain": f'[let]\n{CHAIN}\nd900 = "1"\n[tensors]\n"a.w" = "d0"',
    "cyclic let": '[let]\na = "b"\nb = "a"\n[tensors]\n"w" = "a"',
    "cyclic loop": '[repeat]\ni = "j"\nj = "i"\n[tensors]\n"a.{i}.{j}" = "1"',
    "mounts itself": '[mount.a]\nuse = "hostile"',
    "a file elsewhere": '[mount.a]\nuse = "../../etc/passwd.toml"',
    "many choices": "[params]\nn = { type = 'int', choices = [" + ", ".join(map(str, range(5000))) + "] }",
    "many names": "[tensors]\n" + "\n".join(f'"t{i}" = "1"' for i in range(6000)),
}


ODD = {
    "big polynomial": "[params]\n"
    + "\n".join(f'p{i} = "int"\nq{i} = "int"' for i in range(40))
    + f'\n[repeat]\ni = "3"\n[tensors]\n"a.{{i}}.w" = "{FACTORS} * (i + 1)"',
    "self default": '[params]\nn = { type = "int", default = "n + 1" }\n[repeat]\ni = "n"\n[tensors]\n"b.{i}.w" = "1"',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_spec_is_refused_within_a_second(body: str) -> None:
    with at_most(1), pytest.raises(CkptconvError) as caught:
        made = parse_text(spec(body))
        solution = solve(made, TENSORS)
        if solution.problem is not None:
            raise solution.problem
        expand(made, solution.params)
    assert str(caught.value)


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_an_odd_spec_is_evaluated_within_a_second(body: str) -> None:
    with at_most(1):
        solve(parse_text(spec(body)), TENSORS)


def test_switches_do_not_multiply() -> None:
    """Forty switches have 10^12 assignments; they are tried one at a time."""
    params = "\n".join(f's{i} = {{ type = "bool", default = false }}' for i in range(40))
    tensors = "\n".join(f'"t{i}" = {{ shape = "2", when = "s{i}" }}' for i in range(40))
    made = parse_text(spec(f"[params]\n{params}\n[tensors]\n{tensors}"))
    present = {f"t{i}": TensorInfo.of(DType.F32, (2,)) for i in range(0, 40, 3)}
    with at_most(1):
        solution = solve(made, present)
    assert [name for name, value in solution.params.items() if value] == [f"s{i}" for i in range(0, 40, 3)]


def test_a_mount_bomb_is_refused(tmp_path: Path) -> None:
    """Each file mounts the next forty times: 40^9 tensors."""
    for level in range(9):
        mounts = "\n".join(f'[mount.m{i}]\nuse = "f{level + 1}.toml"\nprefix = "p{i}."' for i in range(40))
        (tmp_path / f"f{level}.toml").write_text(spec(mounts))
    (tmp_path / "f9.toml").write_text(spec('[tensors]\n"w" = "1"'))
    with at_most(1), pytest.raises(LimitError):
        load_spec(tmp_path / "f0.toml")


def test_files_that_mount_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(spec('[mount.b]\nuse = "b.toml"'))
    (tmp_path / "b.toml").write_text(spec('[mount.a]\nuse = "a.toml"'))
    with pytest.raises(CorruptFileError, match="mounts itself"):
        load_spec(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"oops = [", "mend it there; 'ckptconv arch show mlp' shows a spec"),
        (spec('[tensors]\n"w" = "1 +"').encode(), "mend it there; 'ckptconv arch show mlp' shows a spec"),
        (spec('[tensors]\n"w{" = "1"').encode(), "mend it there; 'ckptconv arch show mlp' shows a spec"),
        (b"\xff", "mend it there; 'ckptconv arch show mlp' shows a spec"),
        (spec('[mount.a]\nuse = "a.toml"').encode(), "take one of these mounts out"),
    ],
)
def test_a_mistyped_spec_gets_no_hint_to_copy_it_again(data: bytes, hint: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        load_spec(tmp_path / "a.toml")
    assert caught.value.hint == hint


def test_hostile_names_are_matched_in_linear_time() -> None:
    digits = {
        "1" * 200_000: TensorInfo.of(DType.F32, (2, 2)),
        "a." * 50_000 + "0.weight": TensorInfo.of(DType.F32, (2, 2)),
    }
    with at_most(1):
        solve(load_spec("mlp"), digits)


def test_a_layer_number_of_a_billion_makes_no_billion_layers() -> None:
    parts = {"mlp.gate_proj": (40, 24), "mlp.up_proj": (40, 24), "mlp.down_proj": (24, 40), "input_layernorm": (24,)}
    names = {
        f"model.layers.{i}.{part}.weight": TensorInfo.of(DType.F32, shape)
        for i in (0, 1, 999_999_999)
        for part, shape in parts.items()
    }
    with at_most(1):
        solution = solve(load_spec("llama"), names)
    assert solution.params["layers"] == 2
