"""``ckptconv diff``: verdicts and exit codes, what is named, the page, JSON."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings

import ckptconv
from ckptconv import convert
from ckptconv.errors import CkptconvError
from tests.support import strategies

from .conftest import Run, strict

if TYPE_CHECKING:
    from pathlib import Path


def save(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def network() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {
        "conv.weight": torch.randn(4, 3, 2, 2, generator=generator),
        "fc.weight": torch.randn(3, 4, generator=generator),
        "fc.bias": torch.zeros(3),
    }
    state["head.weight"] = state["fc.weight"]
    return state


def described(state: dict[str, torch.Tensor], **metadata: object) -> dict[str, object]:
    return {"hidden_layers": [512, 256], "epochs": 3, "state_dict": state, **metadata}


def codes(run: Run, a: Path, b: Path, *options: str) -> list[tuple[str, str]]:
    result = run("diff", a, b, "--json", *options)
    document = strict(result.stdout)
    assert result.exit_code == int(not document["equal"])
    return [(finding["code"], finding["where"]) for finding in document["findings"]]


def test_one_model_in_other_containers_and_strides_is_equal(run: Run, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pth", described(network()))
    state = network()
    state["conv.weight"] = state["conv.weight"].to(memory_format=torch.channels_last)
    b = save(tmp_path / "b.pth", described(dict(reversed(state.items()))))
    convert(a, tmp_path / "c.safetensors")
    convert(b, tmp_path / "d.safetensors")
    for other in ("a.pth", "b.pth", "c.safetensors", "d.safetensors"):
        result = run("diff", a, tmp_path / other)
        assert (result.exit_code, result.stdout) == (0, "equal: 4 tensors, 300 B\n")
        assert run("diff", "--headers", tmp_path / other, a).exit_code == 0


def lenet() -> dict[str, torch.Tensor]:
    sizes = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120), "fc3": (10, 84)}
    generator = torch.Generator().manual_seed(0)
    state = {f"{name}.weight": torch.randn(*shape, generator=generator) for name, shape in sizes.items()}
    return state | {f"{name}.bias": torch.randn(shape[0], generator=generator) for name, shape in sizes.items()}


def test_one_network_has_one_digest_in_every_container(run: Run, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pth", described(lenet()))
    strided = {name: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in lenet().items()}
    others = [save(tmp_path / "channels-last.pth", described(strided)), tmp_path / "b.safetensors", tmp_path / "c.onnx"]
    for other in others[1:]:
        assert run("convert", others[0], other, "--arch", "lenet").exit_code == 0
    others.append(tmp_path / "legacy.pth")
    torch.save(described(lenet()), others[-1], _use_new_zipfile_serialization=False)
    digests = {ckptconv.inspect(path, digest=True).digest for path in (a, *others)}
    assert len(digests) == 1
    assert [run("diff", a, other).exit_code for other in others] == [0, 0, 0, 0]
    state = lenet()
    state["fc2.bias"].view(torch.int32)[7] ^= 1
    b = save(tmp_path / "one-bit.pth", described(state))
    for other in others:
        assert codes(run, other, b) == [("value-changed", "fc2.bias")]
    b = save(tmp_path / "one-type.pth", {**described(lenet()), "epochs": 3.0})
    for other in others:
        assert codes(run, other, b) == [("metadata-changed", "epochs")]


def test_one_bit_is_named(run: Run, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pth", network())
    state = network()
    state["conv.weight"].view(torch.int32)[2, 1, 0, 1] ^= 1
    b = save(tmp_path / "b.pth", state)
    assert codes(run, a, b) == [("value-changed", "conv.weight")]
    finding = strict(run("diff", a, b, "--json").stdout)["findings"][0]
    values = finding["values"]
    assert (values["differing"], values["max_ulp"], values["first"]["index"]) == (1, 1, [2, 1, 0, 1])
    assert run("diff", "--headers", a, b).exit_code == 0
    assert "values were not compared" in run("diff", "--headers", a, b).stdout


def test_the_models_tensors_alone_are_compared_where_that_is_asked_for(run: Run, tmp_path: Path) -> None:
    """Neither metadata nor an optimizer's tensors; ties are the model's."""
    a = save(tmp_path / "a.pth", described(network(), optimizer={"state": {0: torch.ones(3)}}))
    b = save(tmp_path / "b.pth", network())
    assert {code for code, _ in codes(run, a, b)} == {"removed", "metadata-changed"}
    assert run("diff", a, b, "--bare").stdout == "equal: 4 tensors, 300 B; metadata was not compared\n"
    both = run("diff", a, b, "--bare", "--headers").stdout
    assert both == "equal headers: 4 tensors; values and metadata were not compared\n"
    assert strict(run("diff", a, b, "--bare", "--json").stdout)["bare"] is True
    state = network()
    untied = save(tmp_path / "untied.pth", state | {"head.weight": state["fc.weight"].clone()})
    assert codes(run, a, untied, "--bare") == [("tie-broken", "fc.weight")]


def test_a_tensor_that_is_gone_is_reported_once_and_not_as_metadata_too(run: Run, tmp_path: Path) -> None:
    before, after = {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3), "step": 3}, {"step": 4}
    a, b = (save(tmp_path / f"{i}.pth", described(network(), ema=state)) for i, state in enumerate((before, after)))
    expected = [("metadata-changed", "ema.step"), ("removed", "ema.exp_avg"), ("removed", "ema.exp_avg_sq")]
    assert sorted(codes(run, a, b)) == expected
    assert [code for code, _ in codes(run, b, a)].count("added") == 2


def test_one_name_one_tie_one_shape_one_type_are_named(run: Run, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pth", network())
    state = network()
    renamed = save(tmp_path / "renamed.pth", {name.replace("bias", "offset"): t for name, t in state.items()})
    untied = save(tmp_path / "untied.pth", state | {"head.weight": state["fc.weight"].clone()})
    longer = save(tmp_path / "longer.pth", state | {"fc.bias": torch.zeros(4)})
    half = save(tmp_path / "half.pth", state | {"conv.weight": state["conv.weight"].half()})
    assert codes(run, a, renamed) == [("renamed", "fc.bias")]
    assert codes(run, a, untied) == [("tie-broken", "fc.weight")]
    assert codes(run, untied, a) == [("tie-made", "fc.weight")]
    assert codes(run, a, longer) == [("shape-changed", "fc.bias")]
    assert codes(run, a, half) == [("dtype-changed", "conv.weight")]
    assert "F32 → F16  rounding only" in run("diff", a, half).stdout


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ({"h": [512, 256]}, {"h": [512, 128]}, "h[1]: 256 → 128"),
        ({"n": 3}, {"n": 3.0}, "n: int 3 → float 3.0"),
        ({"n": 1}, {"n": True}, "n: int 1 → bool True"),
        ({"n": 0.0}, {"n": -0.0}, "n: 0.0 → -0.0"),
        ({"n": (1, 2)}, {"n": [1, 2]}, "n: tuple (1, 2) → list [1, 2]"),
        ({"n": torch.Size([1])}, {"n": (1,)}, "n: TorchSize torch.Size([1]) → tuple (1,)"),
        ({"h": [1, 2]}, {"h": [1, 2, 3]}, "h[2]: nothing → 3"),
        ({"h": [1, 2]}, {"h": [5, 1, 2]}, "h: [1, 2] → [5, 1, 2]"),
        ({"d": {"a": {"b": "x"}}}, {"d": {"a": {"b": "y"}}}, "d.a.b: 'x' → 'y'"),
        ({"d": {1: 2}}, {"d": {True: 2}}, "d[1]: 2 → nothing"),
        ({"d": {}}, {}, "d: {} → nothing"),
        ({"d": None}, {"d": 1}, "d: None → 1"),
        ({"d": torch.float32}, {"d": torch.float16}, "d: torch.float32 → torch.float16"),
        ({"d": 7**6000}, {"d": 7**6000 + 1}, "d: 0x"),
    ],
)
def test_a_metadata_change_is_reported_by_path_and_type(
    run: Run, tmp_path: Path, before: dict[str, object], after: dict[str, object], line: str
) -> None:
    a, b = (save(tmp_path / f"{i}.pth", {"state_dict": network(), **m}) for i, m in enumerate((before, after)))
    assert {code for code, _ in codes(run, a, b)} == {"metadata-changed"}
    assert any(shown.startswith(f"  {line}") for shown in run("diff", a, b).stdout.splitlines())


def test_the_sign_of_zero_is_reported(run: Run, tmp_path: Path) -> None:
    a, b = (save(tmp_path / f"{zero}.pth", {"w": torch.tensor([zero, 1.0])}) for zero in (0.0, -0.0))
    assert "sign of zero alone" in run("diff", a, b).stdout
    assert run("diff", a, b, "--atol", "1e-9").exit_code == 0


def test_nans_of_equal_bits_are_equal(run: Run, tmp_path: Path) -> None:
    data = struct.pack("<3I", 0x7FC00000, 0xFFC12345, 0x7F800001)
    a, b = (
        save(tmp_path / f"{i}.pth", {"w": torch.frombuffer(bytearray(data), dtype=torch.float32)}) for i in range(2)
    )
    assert run("diff", a, b).exit_code == 0


def test_tolerances_cover_what_they_should(run: Run, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pth", {"x.w": torch.tensor([1.0, 2.0]), "y.w": torch.tensor([1.0])})
    b = save(tmp_path / "b.pth", {"x.w": torch.tensor([1.001, 2.0]), "y.w": torch.tensor([1.1])})
    assert run("diff", a, b, "--rtol", "0.2").exit_code == 0
    assert "2 of them differ within the tolerance" in run("diff", a, b, "--rtol", "0.2").stdout
    assert run("diff", a, b, "--atol", "0.01").exit_code == 1
    assert run("diff", a, b, "--atol", "0.01", "--tol", "y.*=rtol:0.2").exit_code == 0
    assert run("diff", a, b, "--ulp", "10000").exit_code == 1
    assert run("diff", a, b, "--ulp", "1000000").exit_code == 0


@pytest.mark.parametrize(
    "options", [["--rtol", "-1"], ["--atol", "nan"], ["--tol", "x"], ["--tol", "x=y"], ["--headers", "--rtol", "1"]]
)
def test_what_makes_no_sense_is_a_usage_error(run: Run, model: Path, options: list[str]) -> None:
    result = run("diff", model, model, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("ckptconv: error: ")


def test_trouble_names_the_file(run: Run, model: Path, tmp_path: Path) -> None:
    result = run("diff", model, tmp_path / "none.pth")
    assert result.exit_code == 2
    assert "none.pth" in result.stderr


def test_layers_are_folded_and_the_largest_change_comes_first(run: Run, tmp_path: Path) -> None:
    state = {f"layers.{i}.{name}.weight": torch.ones(8) for i in range(12) for name in ("up", "down")}
    after = {name: t + (1e-6 if "down" in name else 1e-3 * int(name.split(".")[1])) for name, t in state.items()}
    page = run("diff", save(tmp_path / "a.pth", state), save(tmp_path / "b.pth", after)).stdout.splitlines()
    rows = [line.split() for line in page if "layers.{" in line]
    assert [row[0] for row in rows] == ["layers.{1-11}.up.weight", "layers.{0-11}.down.weight"]
    assert [row[1] for row in rows] == ["×11", "×12"]
    assert len(rows[1][-1]) == 12


def test_layers_have_bars_and_the_hottest_is_first(run: Run, tmp_path: Path) -> None:
    state = {f"h.{i}.{name}.weight": torch.ones(8) for i in range(30) for name in ("up", "down")}
    after = {name: t + 10.0 ** -(int(name.split(".")[1]) % 7) * ("down" in name) for name, t in state.items()}
    page = run("diff", save(tmp_path / "a.pth", state), save(tmp_path / "b.pth", after)).stdout
    rows = [line.split() for line in page.split("layers\n")[1].splitlines()[1:]]
    assert [row[0] for row in rows[:7]] == ["h.0", "h.7", "h.14", "h.21", "h.28", "h.1", "h.8"]
    assert [len(row[3]) for row in rows[:7]] == [16] * 5 + [14] * 2
    assert {row[4] for row in rows[:7]} == {"down.weight"}
    assert " ".join(rows[-1]) == "… and 18 more; --json has all"


def test_the_model_comes_before_its_optimizer(run: Run, tmp_path: Path) -> None:
    for name, change in (("a", 0.0), ("b", 0.5)):
        weights = {f"{i}.{part}": torch.ones(3) + change for i in range(3) for part in ("w", "b")}
        state = {i: {"step": torch.tensor(1 + 100 * change), "exp_avg": torch.ones(3)} for i in range(6)}
        optimizer = {"state": state, "param_groups": []}
        torch.save({"optimizer": optimizer, "model": weights}, tmp_path / f"{name}.pth")
    lines = run("diff", str(tmp_path / "a.pth"), str(tmp_path / "b.pth")).stdout.splitlines()
    values = lines.index("values")
    assert [line.split()[0] for line in lines[values + 2 : values + 5]] == [
        "{0-2}.w", "{0-2}.b", "optimizer.state.{0-5}.step"
    ]  # fmt: skip
    layers = lines.index("layers")
    assert [line.split()[0] for line in lines[layers + 2 : layers + 5]] == ["0", "1", "2"]
    assert len(lines) == layers + 5


def test_rows_of_single_tensors_need_no_list_of_layers(run: Run, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pth", network())
    b = save(tmp_path / "b.pth", {name: t + 1 for name, t in network().items()})
    assert "layers" not in run("diff", a, b).stdout


def test_ten_thousand_changes_are_a_short_page(run: Run, tmp_path: Path) -> None:
    names = [f"{letter * (i % 50 + 1)}.{i}.x{i % 97}" for i in range(2000) for letter in "abcde"]
    a = save(tmp_path / "a.pth", described(dict.fromkeys(names, torch.zeros(1)), **dict.fromkeys(names[:200], 1)))
    after = {name: torch.ones(1) for name in names[5:]}
    b = save(tmp_path / "b.pth", described(after, **dict.fromkeys(names[:200], 2)))
    result = run("diff", a, b)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) < 120
    assert len(result.stdout) < 20_000


def test_nothing_from_a_file_reaches_the_terminal_raw(run: Run, hostile: Path, model: Path) -> None:
    for pair in ((hostile, model), (model, hostile)):
        text = run("diff", *pair).stdout
        assert not set(text) & {"\x1b", "\u202e", "\x07", "\x9b"}
        strict(run("diff", *pair, "--json").stdout)


def test_one_pattern_of_several_shapes_or_types_says_so(run: Run, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pth", {"x": torch.ones(9)})
    b = save(tmp_path / "b.pth", {"h.0": torch.ones(2), "h.1": torch.ones(3)})
    assert "F32, 2 shapes" in run("diff", a, b).stdout
    c = save(tmp_path / "c.pth", {"h.0": torch.ones(2), "h.1": torch.ones(2).half()})
    assert "2 types and shapes" in run("diff", a, c).stdout


def test_the_library_gives_the_same(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "m.safetensors")
    found = ckptconv.diff(model, tmp_path / "m.safetensors")
    assert (found.equal, found.findings, found.edits) == (True, [], [])


@settings(max_examples=60)
@given(states := strategies.state_dicts(), states, strategies.METADATA, strategies.METADATA)
def test_equal_says_what_the_digests_say(
    tmp_path: Path, a: dict[str, object], b: dict[str, object], meta_a: object, meta_b: object
) -> None:
    """Over pairs that are one checkpoint, share a half, or have nothing in common."""
    for i, (state, meta) in enumerate(((a, meta_a), (a, meta_b), (b, meta_a), (a, meta_a))):
        save(tmp_path / f"{i}.pth", {"state_dict": state, "meta": meta})
    try:
        digests = [ckptconv.inspect(tmp_path / f"{i}.pth", digest=True).digest for i in range(4)]
    except CkptconvError:  # what torch saves and we refuse: a name that is not text, tensors alone in no state_dict
        return
    for i in range(1, 4):
        assert ckptconv.diff(tmp_path / "0.pth", tmp_path / f"{i}.pth").equal == (digests[0] == digests[i])


def test_of_blocks_it_says_that_values_are_not_compared(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    a, b = (save(tmp_path / f"{seed}.pth", {"w": torch.full((4, 64), float(seed))}) for seed in range(2))
    convert(a, tmp_path / "a.gguf", edits=ckptconv.Edits(dtype=["Q8_0"]))
    for one in (a, b):
        assert "F32 → Q8_0  values not compared  1 tensor" in run("diff", one, tmp_path / "a.gguf").stdout
        found = strict(run("diff", "--json", one, tmp_path / "a.gguf").stdout)
        assert found["findings"][0]["message"] == "w: F32 → Q8_0; values are not compared"
    headers = run("diff", "--headers", a, tmp_path / "a.gguf").stdout
    assert headers.count("values were not compared") == 1
    assert "values not compared" not in headers
