"""Random scripts of edits on small state_dicts are told for what they are, with nothing removed and added instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptconv import diff

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv import Difference

State = dict[str, torch.Tensor]


def decoder(layers: int, seed: int = 0) -> State:
    """A small decoder with tied embeddings, biases of zero and norms of one, as training starts."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    state: State = {"embed.weight": weight(11, 6)}
    for i in range(layers):
        for part, rows in (("q", 6), ("k", 2), ("v", 2)):
            state[f"layers.{i}.attn.{part}.weight"] = weight(rows, 6)
            state[f"layers.{i}.attn.{part}.bias"] = torch.zeros(rows)
        state[f"layers.{i}.attn.o.weight"] = weight(6, 6)
        state[f"layers.{i}.mlp.up.weight"] = weight(9, 6)
        state[f"layers.{i}.mlp.down.weight"] = weight(6, 9)
        state[f"layers.{i}.norm.weight"] = torch.ones(6)
    state["norm.weight"] = torch.ones(6)
    state["head.weight"] = state["embed.weight"]
    return state


def prefixed(state: State) -> State:
    return {f"model.{name}": tensor for name, tensor in state.items()}


def renamed(state: State) -> State:
    return {name.replace(".mlp.up.", ".ffn.w1.").replace("embed", "wte"): t for name, t in state.items()}


def fused(state: State) -> State:
    made: State = {}
    for name, tensor in state.items():
        if ".attn.q." in name:
            parts = [state[name.replace(".q.", f".{part}.")] for part in "qkv"]
            made[name.replace(".q.", ".qkv.")] = torch.cat(parts)
        elif ".attn.k." not in name and ".attn.v." not in name:
            made[name] = tensor
    return made


def transposed(state: State) -> State:
    return {name: t.T.contiguous() if ".o.weight" in name or "down" in name else t for name, t in state.items()}


def cast(state: State) -> State:
    done: dict[int, torch.Tensor] = {}
    return {
        name: done.setdefault(id(t), t.bfloat16()) if "embed" in name or "head" in name else t
        for name, t in state.items()
    }


def untied(state: State) -> State:
    return {name: t.clone() if name.endswith("head.weight") else t for name, t in state.items()}


def without_layer(state: State) -> State:
    made: State = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if "layers" in parts:
            at = parts.index("layers") + 1
            if parts[at] == "1":
                continue
            parts[at] = str(int(parts[at]) - (int(parts[at]) > 1))
        made[".".join(parts)] = tensor
    return made


SCRIPT = {
    "without_layer": (without_layer, {"layers-removed", "renamed"}),
    "fused": (fused, {"concatenated"}),
    "transposed": (transposed, {"transposed"}),
    "cast": (cast, {"dtype-changed"}),
    "untied": (untied, {"tie-broken"}),
    "renamed": (renamed, {"renamed"}),
    "prefixed": (prefixed, {"renamed"}),
}
"""Each edit with the findings that tell of it, in the order in which they are made."""


def differ(folder: Path, a: State, b: State, *, headers: bool = False) -> Difference:
    torch.save(a, folder / "a.pth")
    torch.save(b, folder / "b.pth")
    return diff(folder / "a.pth", folder / "b.pth", headers=headers)


@settings(max_examples=60)
@given(chosen=st.sets(st.sampled_from(list(SCRIPT)), min_size=1), layers=st.integers(3, 5))
def test_a_script_of_edits_is_recovered(tmp_path: Path, chosen: set[str], layers: int) -> None:
    before = after = decoder(layers)
    wanted: set[str] = set()
    for name, (edit, codes) in SCRIPT.items():
        if name in chosen:
            after, wanted = edit(after), wanted | codes
    for one, other, words in ((before, after, wanted), (after, before, _reversed(wanted))):
        found = differ(tmp_path, one, other)
        assert {finding.code for finding in found.findings} == words
        assert all(values.cast for values in found.values.values())
        assert not found.equal


def _reversed(codes: set[str]) -> set[str]:
    back = {"layers-removed": "layers-inserted", "concatenated": "split", "tie-broken": "tie-made"}
    return {back.get(code, code) for code in codes}


def test_each_edit_is_reported_once_as_a_pattern(tmp_path: Path) -> None:
    found = differ(tmp_path, decoder(4), prefixed(transposed(fused(without_layer(decoder(4))))))
    told = [(edit.kind, edit.sources, edit.targets) for edit in found.edits]
    qkv = tuple(f"model.layers.{{*}}.attn.{part}" for part in ("q", "k", "v"))
    assert told == [
        ("rename", ("{*}",), ("model.{*}",)),
        ("remove-layers", ("model.layers.1.{*}",), ()),
        ("rename", ("model.layers.{2-3}.{*}",), ("model.layers.{1-2}.{*}",)),
        ("concat", tuple(f"{part}.weight" for part in qkv), ("model.layers.{*}.attn.qkv.weight",)),
        ("concat", tuple(f"{part}.bias" for part in qkv), ("model.layers.{*}.attn.qkv.bias",)),
        ("transpose", ("model.layers.{*}.mlp.down.weight",), ("model.layers.{*}.mlp.down.weight",)),
        ("transpose", ("model.layers.{*}.attn.o.weight",), ("model.layers.{*}.attn.o.weight",)),
    ]
    assert found.edits[1].details == {"stack": "model.layers.", "layers": [1]}
    assert found.edits[2].details["renumbered"] == [[2, 1], [3, 2]]
    assert found.edits[3].details == {"axis": 0, "sizes": [6, 2, 2]}
    assert found.edits[5].details == {"axes": [1, 0]}


def test_renames_of_names_with_numbers_of_their_own_are_one_pattern(tmp_path: Path) -> None:
    """The 1 of w1 is not an index."""
    state = {f"layers.{i}.experts.{j}.w1.weight": torch.randn(3, 2) for i in range(3) for j in range(2)}
    found = differ(tmp_path, state, {n.replace("experts", "group").replace("w1", "gate"): t for n, t in state.items()})
    assert [(edit.sources, edit.targets, len(edit.steps)) for edit in found.edits] == [
        (("layers.{*}.experts.{*}.w1.weight",), ("layers.{*}.group.{*}.gate.weight",), 6)
    ]


def test_a_stack_of_another_name_loses_a_layer(tmp_path: Path) -> None:
    after = {name.replace("layers.", "transformer.h."): t for name, t in without_layer(decoder(5)).items()}
    found = differ(tmp_path, decoder(5), after)
    assert [edit.sources for edit in found.edits] == [
        ("layers.{*}",),
        ("transformer.h.1.{*}",),
        ("transformer.h.{2-4}.{*}",),
    ]


def test_layers_that_got_names_instead_of_numbers_are_renamed(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 8, 3))
    state = model.state_dict()
    names = {"0": "stem", "1": "norm", "2": "2"}
    named = {names[name[0]] + name[1:]: tensor for name, tensor in state.items()}
    result = differ(tmp_path, state, named)
    assert {edit.kind for edit in result.edits} == {"rename"}
    assert not [finding.code for finding in result.findings if finding.code in ("removed", "added", "layers-removed")]


def test_a_fused_matrix_may_lie_along_its_second_dimension(tmp_path: Path) -> None:
    a = {name: tensor for name, tensor in decoder(3).items() if "bias" not in name}
    turned = {name: t.T.contiguous() if ".attn." in name and ".o." not in name else t for name, t in a.items()}
    after: State = {}
    for name, tensor in turned.items():
        if ".q." in name:
            after[name.replace(".q.", ".c_attn.")] = torch.cat(
                [turned[name.replace(".q.", f".{p}.")] for p in "qkv"], 1
            )
        elif ".k." not in name and ".v." not in name:
            after[name] = tensor
    found = differ(tmp_path, turned, after)
    assert [(edit.kind, edit.details, len(edit.steps)) for edit in found.edits] == [
        ("concat", {"axis": 1, "sizes": [6, 2, 2]}, 3)
    ]
    assert {finding.code for finding in found.findings} == {"concatenated"}


def test_a_changed_part_of_a_fused_tensor_is_named(tmp_path: Path) -> None:
    after = fused(decoder(3))
    after["layers.1.attn.qkv.weight"][7, 3] += 1  # the middle of k
    found = differ(tmp_path, decoder(3), after)
    changed = [finding for finding in found.findings if finding.code == "value-changed"]
    assert [finding.where for finding in changed] == ["layers.1.attn.k.weight"]
    assert found.values[changed[0]].first == (1, 3)


def test_permuted_and_reshaped_tensors_are_recognised_by_content(tmp_path: Path) -> None:
    kernel = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    a = {"conv": kernel, "row": kernel.flatten()[:12].clone(), "one": torch.tensor(3.0)}
    b = {"conv": kernel.permute(2, 3, 1, 0).contiguous(), "row": a["row"].reshape(3, 4), "one": torch.tensor([3.0])}
    found = differ(tmp_path, a, b)
    assert [(edit.kind, edit.sources) for edit in found.edits] == [
        ("transpose", ("conv",)), ("reshape", ("row",)), ("reshape", ("one",)),
    ]  # fmt: skip
    assert found.edits[0].details == {"axes": [2, 3, 1, 0]}
    assert {finding.code for finding in found.findings} == {"transposed", "reshaped"}


@pytest.mark.parametrize("change", ["nothing", "one number", "the type", "the name"])
def test_a_square_matrix_that_was_transposed_is_compared_as_that(tmp_path: Path, change: str) -> None:
    """No header tells of it: it is asked where the bits differ."""
    a = {"proj.weight": torch.randn(64, 64), "proj.bias": torch.randn(64)}
    turned = a["proj.weight"].t().contiguous()
    name, codes, differing = "proj.weight", {"transposed"}, []
    if change == "one number":
        turned[3, 5] += 1
        codes, differing = codes | {"value-changed"}, [1]
    elif change == "the type":
        turned, codes, differing = turned.bfloat16(), codes | {"dtype-changed"}, [4096]
    elif change == "the name":
        name, codes = "linear.kernel", codes | {"renamed"}
    found = differ(tmp_path, a, {name: turned, "proj.bias": a["proj.bias"]})
    assert {finding.code for finding in found.findings} == codes
    assert all(values.cast for values in found.values.values()) or change != "the type"
    counts = [values.differing for values in found.values.values()]
    assert len(counts) == len(differing)
    assert all(count <= most for count, most in zip(counts, differing, strict=True))
    assert [edit.details for edit in found.edits if edit.kind == "transpose"] == [{"axes": [1, 0]}]


def test_what_has_no_partner_is_removed_and_added(tmp_path: Path) -> None:
    found = differ(tmp_path, {"a": torch.ones(2), "old": torch.ones(3)}, {"a": torch.ones(2), "new": torch.ones(4, 4)})
    assert [(finding.code, finding.where) for finding in found.findings] == [("removed", "old"), ("added", "new")]
    assert [(edit.kind, edit.sources) for edit in found.edits] == [("drop", ("old",))]


def test_a_name_that_joined_a_tie_is_a_tie_made(tmp_path: Path) -> None:
    weight = torch.randn(2, 2)
    found = differ(tmp_path, {"embed": weight}, {"embed": weight, "head": weight})
    assert [(finding.code, finding.where) for finding in found.findings] == [("tie-made", "head")]
    assert [(edit.kind, edit.sources, edit.targets) for edit in found.edits] == [("tie", ("embed",), ("head",))]


@pytest.mark.parametrize("name", ["prefixed", "fused", "cast", "untied"])
def test_headers_alone_tell_of_names_shapes_types_and_ties(tmp_path: Path, name: str) -> None:
    edit, codes = SCRIPT[name]
    found = differ(tmp_path, decoder(3), edit(decoder(3)), headers=True)
    assert {finding.code for finding in found.findings} == codes


def test_experts_that_are_counted_otherwise_are_renamed(tmp_path: Path) -> None:
    """Numbers of numbers against one number: no layer was removed or inserted."""
    torch.manual_seed(0)
    experts = [torch.randn(3, 5) for _ in range(12)]
    before = {f"layers.{i // 4}.experts.{i % 4}.weight": tensor for i, tensor in enumerate(experts)}
    for name in ("layers", "blocks"):
        after = {f"{name}.{i}.weight": tensor for i, tensor in enumerate(experts)}
        for one, other in ((before, after), (after, before)):
            found = differ(tmp_path, one, other)
            assert {finding.code for finding in found.findings} == {"renamed"}
            assert sum(len(edit.steps) for edit in found.edits) == 12
