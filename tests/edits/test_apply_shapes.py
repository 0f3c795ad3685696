"""Edits that take tensors apart and put them together otherwise; torch says what comes out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

import ckptconv
from ckptconv.api.editing.apply import apply_edits
from ckptconv.api.editing.edits import Edits
from ckptconv.core.dtypes import BLOCKS, DTYPES
from ckptconv.core.edit import Edit, Step
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.edits.apply import apply
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CkptconvError, EditError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, torch.Tensor]


def made(tmp_path: Path, state: State, rules: str, **more: object) -> State:
    torch.save(state, tmp_path / "a.pth")
    (tmp_path / "rules.toml").write_text(rules)
    edits = Edits(names=[tmp_path / "rules.toml"], **more)  # type: ignore[arg-type]
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", edits=edits, force=True)
    return load_file(tmp_path / "b.safetensors")


def test_rotary_heads_are_permuted_as_transformers_does_it(tmp_path: Path) -> None:
    """``permute`` of transformers' convert_llama_weights_to_hf.py, and its reverse."""
    heads, width = 4, 32
    weight = torch.randn(width, width)
    expected = weight.view(heads, width // heads // 2, 2, width).transpose(1, 2).reshape(width, width)
    rule = "[[edits]]\nkind = 'permute'\nsources = 'wq'\naxis = 0\nshape = [4, -1, 2]\naxes = [0, 2, 1]\n"
    assert torch.equal(made(tmp_path, {"wq": weight}, rule)["wq"], expected)
    assert torch.equal(made(tmp_path, {"wq": expected}, rule, reverse=True)["wq"], weight)


def test_interleaved_qkv_is_taken_apart_and_put_together(tmp_path: Path) -> None:
    """GPT-NeoX keeps a q, k and v for each head, one head after the other."""
    heads, size, width = 3, 4, 12
    parts = {name: torch.randn(heads * size, width) for name in "qkv"}
    whole = torch.stack([p.view(heads, size, width) for p in parts.values()], 1).reshape(3 * heads * size, width)
    rule = "[[edits]]\nkind = 'split'\nsources = 'qkv'\ntargets = ['q', 'k', 'v']\nsizes = [12, 12, 12]\nblocks = 3\n"
    found = made(tmp_path, {"qkv": whole}, rule)
    assert all(torch.equal(found[name], parts[name]) for name in "qkv")
    assert torch.equal(made(tmp_path, parts, rule, reverse=True)["qkv"], whole)


def test_experts_are_stacked_and_unstacked(tmp_path: Path) -> None:
    experts = {f"e.{i}.w": torch.randn(3, 5) for i in range(4)}
    for axis in range(3):
        rule = f"[[edits]]\nkind = 'stack'\nsources = 'e.{{0-3}}.w'\ntargets = 'e.w'\naxis = {axis}\n"
        found = made(tmp_path, experts, rule)
        assert torch.equal(found["e.w"], torch.stack(list(experts.values()), axis))
        back = made(tmp_path, found, rule, reverse=True)
        assert back.keys() == experts.keys()
        assert all(torch.equal(back[name], experts[name]) for name in back)


def test_what_was_joined_cast_and_reshaped_is_turned_and_cut(tmp_path: Path) -> None:
    """Edits upon edits, on a tensor that lies transposed in its file, in a matrix of several blocks of reading."""
    a, b = torch.randn(700, 900).half(), torch.randn(500, 900).half().T.contiguous().T
    rules = """
[[edits]]
kind = "concat"
sources = ["a", "b"]
targets = ["ab"]
[[edits]]
kind = "cast"
sources = "ab"
dtype = "F32"
[[edits]]
kind = "reshape"
sources = "ab"
shape = [300, -1, 36]
[[edits]]
kind = "transpose"
sources = "ab"
axes = [2, 0, 1]
[[edits]]
kind = "split"
sources = "ab"
targets = ["x", "y"]
sizes = [100, 200]
axis = 1
"""
    whole = torch.cat([a, b]).float().reshape(300, -1, 36).permute(2, 0, 1)
    found = made(tmp_path, {"a": a, "b": b}, rules)
    assert torch.equal(found["x"], whole[:, :100])
    assert torch.equal(found["y"], whole[:, 100:])


def test_a_wide_row_is_joined_in_little_memory(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2, 3_000_000), "b": torch.ones(2, 3_000_000)}, tmp_path / "a.pth")
    (tmp_path / "rules.toml").write_text("[[edits]]\nkind = 'concat'\nsources = ['a', 'b']\ntargets = 'c'\naxis = 1\n")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        tensor = apply_edits(checkpoint, Edits(names=[tmp_path / "rules.toml"]))[0]["c"]
        source = checkpoint.file
        before = source.bytes_read  # type: ignore[union-attr]
        assert bytes(tensor.read(12_000_000 - 8, 12_000_000 + 8)) == bytes(8) + torch.ones(2).numpy().tobytes()
        assert source.bytes_read - before == 16  # type: ignore[union-attr]


def test_packed_numbers_are_not_cut_within_a_byte(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 6), "v": torch.ones(2, 3)}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "f4.safetensors", edits=Edits(select=["w"], dtype=["F4"]))
    (tmp_path / "rules.toml").write_text("[[edits]]\nkind = 'transpose'\nsources = 'w'\naxes = [1, 0]\n")
    with pytest.raises(UnsupportedError, match="several to a byte"):
        edits = Edits(names=[tmp_path / "rules.toml"])
        ckptconv.convert(tmp_path / "f4.safetensors", tmp_path / "c.safetensors", edits=edits)


WRONG = [
    ("kind = 'permute'\nsources = 'a'\naxis = 0\nshape = [3, 2]\naxes = [1, 0]", "4 elements are not what"),
    ("kind = 'permute'\nsources = 'a'\naxis = 0\nshape = [2, 2]\naxes = [1, 1]", "permutes no shape"),
    ("kind = 'split'\nsources = 'a'\ntargets = ['x', 'y']\nblocks = 3", "not made of 3 blocks"),
    ("kind = 'concat'\nsources = ['a', 'b']\ntargets = 'x'\nsizes = [1, 7]", "of lengths [4, 4], not [1, 7]"),
    ("kind = 'stack'\nsources = ['a', 'c']\ntargets = 'x'", "do not go together"),
    ("kind = 'unstack'\nsources = 'a'\ntargets = ['x', 'y']", "do not make 4"),
    ("kind = 'tie'\nsources = 'a'\ntargets = 'c'", "unlike types or shapes"),
    ("kind = 'tie'\nsources = 'a'\ntargets = 'b'\nnew = true", "would have one name"),
    ("kind = 'untie'\nsources = 'a'\ntargets = 'z'", "a tensor is missing"),
    ("kind = 'rename'\nsteps = [[['a'], ['x']], [['a'], ['y']]]", "two steps take one tensor"),
    ("kind = 'rename'\nsteps = [[['a'], ['b']], [['c'], ['b']]]", "would have one name"),
    ("kind = 'rename'\nsteps = [[['x'], ['b']], [['y'], ['d']]]", "2 tensors are missing"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_the_rule_that_does_not_fit_is_named(tmp_path: Path, text: str, words: str) -> None:
    state = {"a": torch.zeros(4, 2), "b": torch.ones(4, 2), "c": torch.ones(4, 3)}
    first = "[[edits]]\nkind = 'transpose'\nsources = 'c'\naxes = [0, 1]\n"
    with pytest.raises(CkptconvError) as caught:
        made(tmp_path, state, f"{first}[[edits]]\n{text}\n")
    assert caught.value.message.startswith("edit 2, ")
    assert words in caught.value.message
    assert str(caught.value.path).endswith("rules.toml")


def test_names_may_change_places(tmp_path: Path) -> None:
    state = {"a": torch.zeros(2), "b": torch.ones(2)}
    found = made(tmp_path, state, "[[edits]]\nkind = 'rename'\nsteps = [[['a'], ['b']], [['b'], ['a']]]\n")
    assert torch.equal(found["a"], state["b"])
    assert torch.equal(found["b"], state["a"])


def test_the_order_of_the_state_dict_is_kept(tmp_path: Path) -> None:
    torch.save({name: torch.zeros(2) for name in "dacbe"}, tmp_path / "a.pth")
    (tmp_path / "r.toml").write_text("[[edits]]\nkind = 'concat'\nsources = ['c', 'b']\ntargets = 'x'\n")
    edits = Edits(names=[NameRule("rename", "^a$=z"), tmp_path / "r.toml"], drop=["d"])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=edits)
    assert list(torch.load(tmp_path / "b.pth", weights_only=True)) == ["z", "x", "e"]


def test_ties_survive_what_is_done_to_all_and_their_end_is_reported(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    torch.save({"embed": weight, "head": weight, "other": torch.zeros(2)}, tmp_path / "a.pth")
    (tmp_path / "r.toml").write_text("[[edits]]\nkind = 'transpose'\nsources = '{*}e{*}d'\naxes = [1, 0]\n")
    kept = Edits(names=[tmp_path / "r.toml"], dtype=["BF16"])
    assert not [f for f in ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=kept).findings
                if f.code == "tie-broken"]  # fmt: skip
    with ckptconv.open(tmp_path / "b.pth") as found:
        assert found.ties == [["embed", "head"]]
        assert found["head"].info.shape == (4, 3)
    broken = ckptconv.convert(tmp_path / "a.pth", tmp_path / "c.pth", edits=Edits(dtype=["embed=BF16"]))
    (finding,) = [finding for finding in broken.findings if finding.code == "tie-broken"]
    assert finding.message == "embed and head shared one tensor, but no longer do"
    with ckptconv.open(tmp_path / "c.pth") as found:
        assert found.ties == []


# the tree around the tensors


def test_several_dicts_become_one_where_names_leave_them(tmp_path: Path) -> None:
    both = {"encoder": {"w": torch.zeros(2)}, "decoder": {"w": torch.ones(2)}, "epoch": 3}
    torch.save(both, tmp_path / "a.pth")
    within = Edits(names=[NameRule("rename", r"\.w$=.weight")])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=within)
    kept = torch.load(tmp_path / "b.pth", weights_only=True)
    assert (list(kept), list(kept["decoder"])) == (["encoder", "decoder", "epoch"], ["weight"])
    outside = Edits(select=["encoder.*"], names=[NameRule("strip-prefix", "encoder.")])
    for suffix in (".pth", ".safetensors"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / f"c{suffix}", edits=outside)
        with ckptconv.open(tmp_path / f"c{suffix}") as found:
            assert (list(found), found.metadata) == (["w"], {"epoch": 3})


def test_tensors_in_no_dict_are_dropped_and_renamed(tmp_path: Path) -> None:
    torch.save({3: torch.zeros(2), "b": torch.ones(2), "n": 5}, tmp_path / "a.pth")  # a key that is not a string
    edits = Edits(drop=["3"], names=[NameRule("add-prefix", "x.")])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=edits)
    with ckptconv.open(tmp_path / "b.pth") as found:
        assert (list(found), found.metadata) == (["x.b"], {"n": 5})
    torch.save({"n": [torch.zeros(2), 1], 2: torch.ones(1)}, tmp_path / "l.pth")
    edits = Edits(names=[NameRule("add-prefix", "x.")])
    with pytest.raises(EditError, match="have places and no names, and so can be given none"):
        ckptconv.convert(tmp_path / "l.pth", tmp_path / "c.pth", edits=edits)
    ckptconv.convert(tmp_path / "l.pth", tmp_path / "c.pth", edits=edits, bare=True)
    assert list(torch.load(tmp_path / "c.pth", weights_only=True)) == ["x.n.0", "x.2"]


def test_a_name_of_a_plain_value_is_taken(tmp_path: Path) -> None:
    torch.save({"a.w": torch.zeros(2), "b": 3}, tmp_path / "a.pth")
    with pytest.raises(EditError, match="plain value"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=Edits(names=[NameRule("rename", "a.w=b")]))


def test_an_optimizers_tensors_are_cast_where_diff_says_so(tmp_path: Path) -> None:
    def saved(path: Path, dtype: torch.dtype) -> Path:
        state = {"w": torch.arange(6.0).to(dtype)}
        torch.save({"state_dict": state, "optimizer": {"state": {0: {"m": torch.arange(4.0).to(dtype)}}}}, path)
        return path

    import json

    a, b = saved(tmp_path / "a.pth", torch.float32), saved(tmp_path / "b.pth", torch.bfloat16)
    (tmp_path / "edits.json").write_text(json.dumps(ckptconv.diff(a, b).to_dict()))
    ckptconv.convert(a, tmp_path / "c.pth", edits=Edits(names=[tmp_path / "edits.json"]))
    assert ckptconv.diff(b, tmp_path / "c.pth").equal
    (tmp_path / "r.toml").write_text("[[edits]]\nkind = 'rename'\nsteps = [[['optimizer.state.0.m'], ['m']]]\n")
    with pytest.raises(EditError, match="outside of the state_dict"):
        ckptconv.convert(a, tmp_path / "d.pth", edits=Edits(names=[tmp_path / "r.toml"]))


def test_the_note_of_an_architecture_goes_where_the_tensors_are_others(tmp_path: Path) -> None:
    state = {"hidden_layers.0.weight": torch.zeros(4, 3), "hidden_layers.0.bias": torch.zeros(4),
             "output.weight": torch.zeros(2, 4), "output.bias": torch.zeros(2)}  # fmt: skip
    torch.save(state, tmp_path / "a.pth")
    noted = tmp_path / "noted.safetensors"
    ckptconv.convert(tmp_path / "a.pth", noted, arch="mlp")
    cast = ckptconv.convert(noted, tmp_path / "b.safetensors", edits=Edits(dtype=["BF16"]))
    assert "arch-note" not in {finding.code for finding in cast.findings}
    edits = Edits(names=[NameRule("add-prefix", "net.")])
    renamed = ckptconv.convert(noted, tmp_path / "c.safetensors", edits=edits)
    assert "arch-note" in {finding.code for finding in renamed.findings}
    for name, arch in (("b", "mlp"), ("c", None)):
        with ckptconv.open(tmp_path / f"{name}.safetensors") as found:
            note: Any = found.notes.arch or {"name": None}
            assert note["name"] == arch


UNFIT = {
    "axes": {"kind": "transpose", "sources": ["w"], "targets": ["w"], "axes": [0, 3]},
    "elements": {"kind": "reshape", "sources": ["w"], "targets": ["w"], "shape": [5, 5]},
    "element type": {"kind": "cast", "sources": ["w"], "targets": ["w"], "dtype": "F33"},
    "dimensions": {"kind": "stack", "sources": ["w", "v"], "targets": ["x"], "axis": 9},
    "equal": {"kind": "concat", "sources": ["w", "b"], "targets": ["x"], "axis": 0},
    "sizes": {"kind": "split", "sources": ["w"], "targets": ["x", "y"], "axis": 0, "sizes": [1, 7]},
    "targets": {"kind": "unstack", "sources": ["w"], "targets": ["x", "y"], "axis": 0},
    "drop": {"kind": "rename", "sources": ["w"], "targets": ["b"]},
    "inspect --list": {"kind": "drop", "sources": ["nothing"]},
}


@pytest.mark.parametrize("word", UNFIT)
def test_the_hint_says_what_an_edit_of_that_kind_needs(tmp_path: Path, word: str) -> None:
    torch.save({"w": torch.ones(3, 4), "v": torch.ones(3, 4), "b": torch.ones(7)}, tmp_path / "a.pth")
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"edits": [UNFIT[word]]}))
    with pytest.raises(EditError) as caught:
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=Edits(names=[rules]))
    assert caught.value.hint is not None
    assert word in caught.value.hint
    assert not (tmp_path / "b.pth").exists()


def test_zeros_stand_beside_what_they_are_like_and_are_undone(tmp_path: Path) -> None:
    state = {"a.bias_ih": torch.ones(3, dtype=torch.bfloat16), "b.bias_ih": torch.ones(5), "c": torch.ones(2)}
    torch.save(state, tmp_path / "a.pth")
    rules = tmp_path / "rules.toml"
    rules.write_text('[[edits]]\nkind = "zeros"\nsources = ["{*}.bias_ih"]\ntargets = ["{*}.bias_hh"]\n')
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=ckptconv.Edits(names=[rules]))
    found = torch.load(tmp_path / "b.pth")
    assert list(found) == ["a.bias_ih", "a.bias_hh", "b.bias_ih", "b.bias_hh", "c"]
    assert torch.equal(found["a.bias_hh"], torch.zeros(3, dtype=torch.bfloat16))
    assert torch.equal(found["b.bias_hh"], torch.zeros(5))
    ckptconv.convert(tmp_path / "b.pth", tmp_path / "c.pth", edits=ckptconv.Edits(names=[rules], reverse=True))
    assert ckptconv.diff(tmp_path / "c.pth", tmp_path / "a.pth").equal
    with pytest.raises(EditError, match="two tensors would have one name"):
        ckptconv.convert(tmp_path / "b.pth", tmp_path / "d.pth", edits=ckptconv.Edits(names=[rules]))


@pytest.mark.parametrize("dtype", ["F8_E8M0", "Q4_K"])
def test_a_type_without_a_zero_in_its_bytes_is_refused(dtype: str) -> None:
    tensor = in_memory(TensorInfo.of(DTYPES.get(dtype) or BLOCKS[dtype], (256,)), bytes(256))
    with pytest.raises(EditError, match="has no 0"):
        apply({"a": tensor}, [Edit("zeros", ("a",), ("b",), {}, (Step(("a",), ("b",)),))])


@pytest.mark.parametrize("kind", ["concat", "stack"])
def test_tensors_of_unlike_ranks_do_not_go_together(tmp_path: Path, kind: str) -> None:
    torch.save({"a": torch.zeros(0), "b": torch.zeros(())}, tmp_path / "a.pth")
    edit = Edit(kind, ("a", "b"), ("c",), {"axis": 0})  # type: ignore[arg-type]
    with ckptconv.open(tmp_path / "a.pth") as checkpoint, pytest.raises(EditError, match="do not go together"):
        apply(dict(checkpoint), [edit])
