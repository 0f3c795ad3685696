"""Every cause by its code: said once, before the symptoms, and named as a person would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.arch.bind import Source, from_metadata
from ckptconv.arch.check import check
from ckptconv.arch.load import load_spec, parse_text
from ckptconv.checks.blame import ORDER
from ckptconv.checks.validate import compare, validate_spec
from ckptconv.core.dtypes import DType
from tests.checks.support import checkpoint, codes, decoder, perceptron, table

if TYPE_CHECKING:
    from collections.abc import Mapping

NETWORK = perceptron(784, 512, 256, 10)
DECODER = decoder(3)


def renamed(shapes: Mapping[str, tuple[int, ...]], **changes: str) -> dict[str, tuple[int, ...]]:
    return {changes.get(name, name): shape for name, shape in shapes.items()}


def test_a_missing_tensor_is_named_with_its_shape() -> None:
    shapes = {name: shape for name, shape in NETWORK.items() if name != "output.bias"}
    (found,) = compare(checkpoint(shapes), table(NETWORK))
    assert (found.code, found.where, found.expected) == ("missing-tensor", "output.bias", "[10]")


def test_an_unexpected_tensor_is_named_with_its_shape() -> None:
    (found,) = compare(checkpoint({**NETWORK, "extra": (3,)}), table(NETWORK))
    assert (found.code, found.where, found.found) == ("unexpected-tensor", "extra", "[3]")


def test_a_wrong_shape_says_what_is_expected_and_what_is_found() -> None:
    (found,) = compare(checkpoint({**NETWORK, "output.weight": (11, 256)}), table(NETWORK))
    assert (found.code, found.expected, found.found) == ("shape-mismatch", "[10, 256]", "[11, 256]")


def test_a_matrix_with_its_sizes_exchanged_is_transposed() -> None:
    (found,) = compare(checkpoint({**NETWORK, "output.weight": (256, 10)}), table(NETWORK))
    assert (found.code, found.where) == ("transposed", "output.weight")


def test_a_kernel_in_another_frameworks_order_is_transposed() -> None:
    (found,) = compare(checkpoint({"conv.weight": (3, 5, 16, 32)}), table({"conv.weight": (32, 16, 3, 5)}))
    assert found.code == "transposed"
    assert found.hint == "state_dict['conv.weight'] = state_dict['conv.weight'].permute(3, 2, 0, 1).contiguous()"


def test_all_matrices_transposed_are_each_transposed_and_none_swapped() -> None:
    shapes = {name: shape[::-1] for name, shape in NETWORK.items()}
    found = compare(checkpoint(shapes), table(NETWORK))
    assert codes(found) == ["transposed"] * 3


def test_one_renamed_tensor_is_named_with_its_likely_partner() -> None:
    (found,) = compare(checkpoint(renamed(NETWORK, **{"output.bias": "output.b"})), table(NETWORK))
    assert (found.code, found.where, found.found, found.expected) == ("renamed", "output.b", "output.b", "output.bias")


def test_gamma_for_weight_in_every_layer_is_reported_once() -> None:
    shapes = {name.replace("norm.weight", "norm.gamma"): shape for name, shape in DECODER.items()}
    (found,) = compare(checkpoint(shapes), table(DECODER))
    assert found.code == "renamed"
    assert "3 names have 'gamma' for 'weight'" in found.message


def test_gamma_and_beta_are_two_renames() -> None:
    shapes = {
        name.replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta"): shape
        for name, shape in DECODER.items()
    }
    assert codes(compare(checkpoint(shapes), table(DECODER))) == ["renamed", "renamed"]


def test_layers_under_another_number_scheme_are_one_rename() -> None:
    shapes = {name.replace("model.layers.", "model.h."): shape for name, shape in DECODER.items()}
    (found,) = compare(checkpoint(shapes), table(DECODER))
    assert found.code == "renamed"
    assert f"{len(shapes) - 2} names" in found.message


def test_a_kernel_for_a_weight_that_is_transposed_too_is_both() -> None:
    shapes = renamed(NETWORK, **{"output.weight": "output.kernel"}) | {"output.kernel": (256, 10)}
    found = compare(checkpoint(shapes), table(NETWORK))
    assert codes(found) == ["renamed", "transposed"]


def test_every_wrappers_prefix_is_one_finding() -> None:
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "any.thing."):
        found = compare(checkpoint({prefix + name: shape for name, shape in DECODER.items()}), table(DECODER))
        assert codes(found) == ["prefixed"], prefix
        assert prefix in found[0].message


def test_a_missing_prefix_is_one_finding_though_other_names_have_none() -> None:
    shapes = {name.removeprefix("model."): shape for name, shape in DECODER.items()}
    (found,) = compare(checkpoint(shapes), table(DECODER))
    assert found.code == "prefixed"
    assert "'model.'" in found.message


def test_faults_under_a_prefix_are_explained_as_without_it() -> None:
    shapes = {"module." + name: shape for name, shape in NETWORK.items()} | {"module.output.weight": (256, 10)}
    found = compare(checkpoint(shapes), table(NETWORK))
    assert codes(found) == ["prefixed", "transposed"]
    assert found[1].where == "output.weight"


def test_a_layer_too_few_is_one_finding() -> None:
    shapes = {name: shape for name, shape in DECODER.items() if not name.startswith("model.layers.1.")}
    (found,) = compare(checkpoint(shapes), table(DECODER))
    assert (found.code, found.where, found.expected, found.found) == ("layer-count", "model.layers.1", "3", "2")


def test_layers_too_many_are_one_finding() -> None:
    (found,) = compare(checkpoint(decoder(7)), table(DECODER))
    assert (found.code, found.expected, found.found) == ("layer-count", "3", "7")
    assert "model.layers.3" in found.message and "model.layers.6" in found.message


def test_half_a_layer_is_no_layer_count() -> None:
    shapes = {name: shape for name, shape in DECODER.items() if not name.startswith("model.layers.1.attn")}
    assert set(codes(compare(checkpoint(shapes), table(DECODER)))) == {"missing-tensor"}


def test_two_tensors_under_each_others_names_are_swapped() -> None:
    shapes = NETWORK | {"output.weight": (256, 512), "hidden_layers.1.weight": (10, 256)}
    (found,) = compare(checkpoint(shapes), table(NETWORK))
    assert found.code == "swapped"
    assert "output.weight" in found.message and "hidden_layers.1.weight" in found.message


def test_another_element_type_is_a_warning() -> None:
    wanted = table(NETWORK, dtypes={"output.bias": frozenset({"F32"})})
    (found,) = compare(checkpoint(NETWORK, dtypes={"output.bias": DType.F16}), wanted)
    assert (found.code, found.severity, found.expected, found.found) == ("dtype-mismatch", "warning", "F32", "F16")


def test_a_tie_that_the_file_does_not_keep_is_a_warning() -> None:
    wanted = table(DECODER, tied_to={"lm_head.weight": "model.embed.weight"})
    (found,) = compare(checkpoint(DECODER), wanted)
    assert (found.code, found.severity, found.where) == ("tie-broken", "warning", "lm_head.weight")
    assert not compare(checkpoint(DECODER, ties={"lm_head.weight": "model.embed.weight"}), wanted)


def test_ties_and_types_are_looked_at_under_a_prefix_too() -> None:
    wanted = table(DECODER, tied_to={"lm_head.weight": "model.embed.weight"})
    found = compare(checkpoint({"module." + name: shape for name, shape in DECODER.items()}), wanted)
    assert codes(found) == ["prefixed", "tie-broken"]


def test_module_versions_are_read_under_a_prefix_too() -> None:
    """A version of 2 asks for num_batches_tracked, also where a wrapper left its name on the module."""
    wanted = table({"bn.weight": (3,), "bn.bias": (3,), "bn.num_batches_tracked": ()})
    there = {"module.bn.weight": (3,), "module.bn.bias": (3,)}
    assert codes(compare(checkpoint(there, versions={"module.bn": {"version": 2}}), wanted)) == [
        "prefixed",
        "missing-tensor",
    ]
    assert codes(compare(checkpoint(there, versions={"module.bn": {"version": 1}}), wanted)) == ["prefixed"]


def metadata_source(**values: Any) -> list[Source]:
    metadata: dict[Any, Any] = dict(values)
    return [from_metadata(load_spec("mlp"), metadata)]


def test_metadata_that_the_tensors_contradict_is_a_param_conflict() -> None:
    spec = load_spec("mlp")
    stated = {"input_size": 784, "hidden_layers": [512, 257], "output_size": 10}
    (found,) = validate_spec(checkpoint(NETWORK, metadata=stated), spec, metadata_source(**stated)).findings
    assert (found.code, found.where) == ("param-conflict", "hidden_layers")
    assert found.hint == "checkpoint['hidden_layers'] = [512, 256]"


def test_at_a_draw_the_tensors_win_and_the_tensor_is_named_too() -> None:
    stated = {"input_size": 700, "hidden_layers": [512, 256], "output_size": 10}
    verdict = validate_spec(checkpoint(NETWORK, metadata=stated), load_spec("mlp"), metadata_source(**stated))
    (found,) = verdict.findings
    assert (found.code, found.where, verdict.params["input_size"]) == ("param-conflict", "input_size", 784)
    assert "hidden_layers.0.weight: expected shape [512, 700], found [512, 784]" in found.message


def test_a_lost_last_layer_is_not_blamed_on_the_metadata() -> None:
    stated = {"input_size": 784, "hidden_layers": [512, 256], "output_size": 10}
    shapes = {name: shape for name, shape in NETWORK.items() if not name.startswith("hidden_layers.1.")}
    verdict = validate_spec(checkpoint(shapes, metadata=stated), load_spec("mlp"), metadata_source(**stated))
    (found,) = verdict.findings
    assert (found.code, found.where, found.expected, found.found) == ("layer-count", "hidden_layers.1", "2", "1")


def test_metadata_beyond_all_tensors_is_not_believed_even_for_once() -> None:
    stated = {"input_size": 784, "hidden_layers": [1] * 100_000, "output_size": 10}
    verdict = validate_spec(checkpoint(NETWORK, metadata=stated), load_spec("mlp"), metadata_source(**stated))
    assert codes(verdict.findings) == ["param-conflict"]


SPEC = """
spec = 1
name = "heads"
[params]
hidden = "int"
heads = { type = "int", default = 4 }
[tensors]
"q.weight" = "hidden hidden"
[constraints]
"heads divide hidden" = "hidden % heads == 0"
"""


def test_params_that_break_a_constraint_are_an_error() -> None:
    verdict = validate_spec(checkpoint({"q.weight": (30, 30)}), parse_text(SPEC), [])
    (found,) = verdict.findings
    assert (found.code, found.severity) == ("constraint", "error")
    assert "hidden = 30" in found.message


def test_causes_come_before_symptoms() -> None:
    shapes = {"module." + name: shape for name, shape in decoder(4).items()}
    shapes["module.lm_head.weight"] = (8, 50)
    shapes["module.model.embed.weight"] = (51, 8)
    del shapes["module.model.layers.0.norm.bias"]
    found = compare(checkpoint(shapes), table(DECODER, dtypes={"lm_head.weight": frozenset({"F16"})}))
    expected = ["prefixed", "layer-count", "transposed", "shape-mismatch", "missing-tensor", "dtype-mismatch"]
    assert codes(found) == expected == sorted(expected, key=ORDER.index)


def test_what_fits_has_no_findings_and_what_does_not_has_errors_both_ways() -> None:
    shapes = {name: tensor for name, tensor in DECODER.items() if "norm" not in name}
    for there in (DECODER, shapes, decoder(2), {"module." + name: shape for name, shape in DECODER.items()}):
        symptoms = check(table(DECODER), {name: tensor.info for name, tensor in checkpoint(there).items()})
        assert bool(symptoms) == bool(compare(checkpoint(there), table(DECODER)))
