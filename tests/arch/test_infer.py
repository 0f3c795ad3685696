"""Specs from checkpoints: two sizes of a family accept a third, and refuse what is foreign."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptconv.arch.check import check
from ckptconv.arch.infer import infer
from ckptconv.arch.load import parse_text
from ckptconv.arch.solver import solve
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import UnsupportedError, UsageError
from tests.arch.families import ALL
from tests.arch.real_models import built, infos
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from ckptconv.arch.spec import Spec

CASES = {str(case): case for case in ALL}

FAMILIES = [
    ("mlp-modules0", "mlp-modules1", "mlp-modules2"),
    ("mlp-plain0", "mlp-plain1", "mlp-plain2"),
    ("mlp-batch0", "mlp-batch1", "mlp-batch2"),
    ("resnet-resnet50", "resnet-resnet101", "resnet-resnet152"),
    ("resnet-resnet18", "resnet-resnet34", "resnet-resnet18(num_classes=7)"),
    ("vit-vit_b_32", "vit-vit_l_16", "vit-vit_h_14"),
    *(
        tuple(f"{name}-{size}" for size in range(3))
        for name in (
            "llama-LlamaForCausalLM", "llama-Qwen3ForCausalLM", "mixtral-MixtralForCausalLM", "gpt2-GPT2Model",
            "bert-BertForMaskedLM", "roberta-RobertaForSequenceClassification", "distilbert-DistilBertForMaskedLM",
            "t5-T5ForConditionalGeneration", "t5-T5ForConditionalGeneration-v1.1", "gemma-Gemma3ForCausalLM",
            "whisper-WhisperForConditionalGeneration", "clip-CLIPModel", "vit-ViTForImageClassification",
        )
    ),
]  # fmt: skip


def tensors(name: str) -> dict[str, TensorInfo]:
    return infos(built(CASES[name]).state_dict())


def faults(spec: Spec, found: dict[str, TensorInfo]) -> int:
    solution = solve(spec, found)
    assert solution.table is not None
    return len([*solution.findings, *check(solution.table, found)])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0])
def test_two_sizes_accept_the_third_and_refuse_another_model(family: tuple[str, str, str]) -> None:
    first, second, third = (tensors(name) for name in family)
    spec = parse_text(infer([first, second]))
    assert [faults(spec, found) for found in (first, second, third)] == [0, 0, 0]
    foreign = "distilbert-DistilBertModel-1" if "gpt2" in family[0] else "gpt2-GPT2Model-1"
    assert faults(spec, tensors(foreign)) > 10
    name = next(name for name in third if name.endswith("weight"))
    assert faults(spec, {key: value for key, value in third.items() if key != name}) > 0


def test_the_spec_of_a_fully_connected_network_reads_as_one_would_write_it() -> None:
    text = infer([tensors("mlp-modules0"), tensors("mlp-modules2")], name="mlp", summary="Fully connected")
    assert text == (
        'spec = 1\nname = "mlp"\nsummary = "Fully connected"\n\n'
        '[params]\nhidden_layers = "ints"\ninput_size = "int"\noutputs = "int"\n\n'
        '[repeat]\nhidden_layer = "len(hidden_layers)"\n\n'
        "[tensors]\n"
        '"hidden_layers.{hidden_layer}.weight" = '
        '"hidden_layers[hidden_layer] [input_size, *hidden_layers][hidden_layer]"\n'
        '"hidden_layers.{hidden_layer}.bias" = "hidden_layers[hidden_layer]"\n'
        '"output.weight" = "outputs hidden_layers[-1]"\n'
        '"output.bias" = "outputs"\n'
    )


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(("2", "_bn", "50", "_h_14"))])
def test_one_checkpoint_gives_a_spec_that_it_fits(name: str) -> None:
    found = tensors(name)
    assert faults(parse_text(infer([found])), found) == 0


def test_names_with_slashes_fold_as_names_with_dots_do() -> None:
    found = {
        f"encoder/layers/{layer}/{dense}/kernel": TensorInfo.of(DType.F32, (8, 16))
        for layer in range(3) for dense in ("query", "up")
    }  # fmt: skip
    dotted = infer([{name.replace("/", "."): info for name, info in found.items()}])
    assert '"encoder.layers.{layer}.up.kernel"' in dotted
    assert infer([found]).replace("/", ".") == dotted


def test_the_variables_of_a_keras_layer_are_no_loop() -> None:
    found = {f"layers/norm/vars/{number}": TensorInfo.of(DType.F32, (8,)) for number in range(4)}
    assert "repeat" not in infer([found])


def test_tensors_that_some_of_the_checkpoints_have_become_a_switch() -> None:
    full = tensors("llama-LlamaForCausalLM-0")
    tied = {name: value for name, value in tensors("llama-LlamaForCausalLM-2").items() if name != "lm_head.weight"}
    spec = parse_text(infer([full, tied]))
    assert [name for name, param in spec.params.items() if param.type == "bool"] == ["has_lm_head"]
    assert faults(spec, tensors("llama-LlamaForCausalLM-1")) == 0


def test_a_spec_spells_names_of_any_characters() -> None:
    names = ("emoji🎉", "日本", "tab\t", "esc\x1b\x7f\u202e\U000e0001", 'quote"', "back\\slash")
    found = {f"{name}.weight": TensorInfo.of(DType.F32, (9,)) for name in names}
    text = infer([found])
    assert all(line.isprintable() for line in text.splitlines())
    assert faults(parse_text(text), found) == 0


def test_what_cannot_be_reported_is_refused_by_name() -> None:
    with pytest.raises(UsageError):
        infer([])
    with pytest.raises(UsageError):
        infer([{}])
    with pytest.raises(UnsupportedError, match="spell"):
        infer([{"a{b}": TensorInfo.of(DType.F32, (3,))}])


@pytest.mark.parametrize(("gap", "condition"), [((0,), "> 0"), ((1, 2), "== 0")])
def test_a_numbered_layer_that_some_blocks_lack_has_a_condition(gap: tuple[int, ...], condition: str) -> None:
    """As the first norm of a residual network whose activations come first."""
    parts = ("bn1.weight", "conv1.weight", "bn2.weight", "conv2.weight")
    names = [f"layer1.{block}.{part}" for block in range(3) for part in parts if part != parts[0] or block not in gap]
    found = dict.fromkeys(names, TensorInfo.of(DType.F32, (8,)))
    text = infer([found])
    assert f'"layer1.{{layer}}.bn1.weight" = {{ shape = "hidden", when = "layer {condition}" }}' in text
    assert faults(parse_text(text), found) == 0


def test_what_the_spec_does_not_accept_is_reported_in_words() -> None:
    info = TensorInfo.of(DType.F32, (2, 3))
    with pytest.raises(UnsupportedError) as caught:
        infer([dict.fromkeys(("b.0.w1", "b.0.w2", "b.1.w2", "b.2.w1", "b.2.w2"), info)])
    assert str(caught.value).endswith("all of these checkpoints: b.1.w1 is missing (shape [2, 3])")


def test_a_count_over_tensors_of_different_ranks_is_refused_with_what_to_do() -> None:
    shapes = {"s.0.t": (), "s.0.a": (4, 3), "s.0.b": (4, 3), "s.1.t": (), "s.1.a": (4,), "s.1.b": (4,)}
    with pytest.raises(UnsupportedError, match="different numbers of dimensions") as caught:
        infer([{name: TensorInfo.of(DType.F32, shape) for name, shape in shapes.items()}])
    assert "by hand" in str(caught.value.hint)


def test_a_name_with_braces_is_refused_with_the_way_to_another_name() -> None:
    with pytest.raises(UnsupportedError, match="braces") as caught:
        infer([{"{*}.weight": TensorInfo.of(DType.F32, (2,))}])
    assert "--rename" in (caught.value.hint or "")


def test_a_name_of_hundreds_of_numbers_is_refused_before_they_become_loops() -> None:
    names = {f"{'1.' * 2_000}{i}": TensorInfo.of(DType.F32, (1,)) for i in range(200)}
    with at_most(2), pytest.raises(UnsupportedError, match="more than 32 numbers") as caught:
        infer([names])
    assert len(caught.value.message) < 200
