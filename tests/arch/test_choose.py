"""Which spec: by evidence, in order, and never by fit."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ckptconv
from ckptconv.arch import choose as choosing
from ckptconv.arch import evaluate, shortlist, solver
from ckptconv.arch.choose import choose
from ckptconv.arch.evaluate import Allowance, Budget
from ckptconv.arch.load import library_names, load_spec
from ckptconv.arch.match import skeleton_of
from ckptconv.arch.rating import ENOUGH, Rater
from ckptconv.arch.statements import Statement, root_statement
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo, infos_of
from ckptconv.errors import StepsError, UsageError
from tests.arch.families import ALL
from tests.arch.real_models import Case, built, infos

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.arch.spec import Spec

LLAMA = Path(__file__).parents[2] / "fixtures" / "others" / "llama-2-whole.pth"
CASES = {str(case): case for case in ALL}
SAME_NAMES = {"gemma": "llama", "roberta": "bert", "electra": "bert"}
"""The first Gemma has Llama's names, a bare RoBERTa or ELECTRA BERT's, and their shapes: only a config.json, or what
else says how they were made, can tell them apart.
"""


def tensors(name: str) -> dict[str, TensorInfo]:
    return infos(built(CASES[name]).state_dict())


@pytest.mark.parametrize("case", [case for case in ALL if not load_spec(case.spec).mistaken_for], ids=str)
def test_a_real_model_is_known_by_its_names(case: Case) -> None:
    choice = choose(infos(built(case).state_dict()))
    same = case.name.startswith(("GemmaFor", "GemmaModel", "RobertaModel", "ElectraModel-same"))
    assert choice.spec.name == (SAME_NAMES[case.spec] if same else case.spec)
    assert choice.evidence == "names"
    assert choice.overlap == 1.0
    assert not shortlist.lacks(case.spec, parts_of(infos(built(case).state_dict())))


def parts_of(names: Iterable[str]) -> set[str]:
    return {part for name in names for part in skeleton_of(name).split(".")}


def test_a_spec_whose_models_all_have_what_a_checkpoint_lacks_is_not_read() -> None:
    parts = parts_of(tensors("bert-BertModel-0"))
    assert not shortlist.lacks("bert", parts)
    assert shortlist.lacks("mobilebert", parts)  # it has all of BERT's names, and embedding_transformation


@pytest.mark.parametrize(
    ("name", "tower", "other"),
    [
        ("tipsv2_text-Tipsv2TextModel", "tipsv2_text", "clip"),
        ("videollama3_vision-VideoLlama3VisionModel", "videollama3_vision", "siglip"),
    ],
)
def test_names_that_another_has_when_damaged_decide_nothing(name: str, tower: str, other: str) -> None:
    with pytest.raises(UsageError, match=rf"the names fit several architectures: {other}, {tower}\n"):
        choose(tensors(name))


def test_evidence_counts_in_its_order() -> None:
    names = tensors("gpt2-GPT2Model-0")
    meta: dict[object, Any] = {"input_size": 1, "hidden_layers": [], "output_size": 2}
    config = {"model_type": "t5"}
    note = {"name": "vgg", "digest": load_spec("vgg").digest}
    assert choose(names, statements=[root_statement(meta)], config=config, note=note).spec.name == "vgg"
    assert choose(names, statements=[root_statement(meta)], config=config).spec.name == "t5"
    assert choose(names, statements=[root_statement(meta)]).spec.name == "mlp"
    assert choose(names, statements=[root_statement({"input_size": 1, "epoch": 3})]).spec.name == "gpt2"


def test_what_a_model_was_made_with_tells_apart_what_names_do_not_and_so_do_shapes() -> None:
    names, made = tensors("nanogpt-biases"), CASES["nanogpt-biases"].params
    by_settings = choose(names, statements=[root_statement({}), Statement("model_args", made)])
    by_shapes = choose(names, statements=[root_statement({}), Statement("model_args", {"n_head": 2})])
    assert [(one.spec.name, one.evidence) for one in (by_settings, by_shapes)] == [
        ("nanogpt", "metadata"), ("nanogpt", "names"),
    ]  # fmt: skip


def test_metadata_names_its_spec_whatever_its_values() -> None:
    choice = choose({}, statements=[root_statement({"input_size": None, "hidden_layers": "x", "output_size": -1})])
    assert (choice.spec.name, choice.evidence) == ("mlp", "metadata")


def test_a_note_of_another_version_or_an_unknown_spec_is_reported() -> None:
    names = tensors("gpt2-GPT2Model-0")
    old = choose(names, note={"name": "gpt2", "digest": "sha256:0"})
    assert old.spec.name == "gpt2"
    assert [finding.code for finding in old.findings] == ["arch-note"]
    unknown = choose(names, note={"name": "mine"})
    assert (unknown.spec.name, unknown.evidence) == ("gpt2", "names")
    assert "'mine'" in unknown.findings[0].message


@pytest.mark.parametrize("prefix", ["net.", "module.model.net."])
def test_a_network_inside_of_a_larger_class_is_known(prefix: str) -> None:
    wrapped = {prefix + name: value for name, value in tensors("resnet-resnet18").items()}
    choice = choose(wrapped)
    assert (choice.spec.name, choice.wrapper) == ("resnet", prefix)
    with pytest.raises(UsageError, match="nothing says"):
        choose({**wrapped, "loss.weight": next(iter(wrapped.values()))})


VECTOR, NUMBER, MATRIX = (TensorInfo.of(DType.F32, shape) for shape in ((7,), (), (7, 7)))


@pytest.mark.parametrize(
    ("prefix", "strays"),
    [
        ("net.", {"crit.weight": VECTOR}),
        ("module.", {"n_averaged": NUMBER}),
        ("module.model.net.", {"crit.weight": VECTOR, "temperature": NUMBER}),
    ],
)
def test_a_few_vectors_beside_a_network_in_a_larger_class_are_strays(
    prefix: str, strays: dict[str, TensorInfo]
) -> None:
    choice = choose({**strays, **{prefix + name: info for name, info in tensors("resnet-resnet18").items()}})
    assert (choice.spec.name, choice.wrapper, choice.overlap) == ("resnet", prefix, 1.0)
    assert choice.strays == strays.keys()


@pytest.mark.parametrize(
    ("beside", "info"),
    [
        (["fc.weight"], MATRIX),
        (["norm.weight", "norm.bias"], VECTOR),  # as MaskFormerSwinBackbone has them behind a Swin transformer
        ([f"metric{i}.total" for i in range(4)], NUMBER),
    ],
)
def test_what_may_be_a_layer_beside_a_network_and_what_is_more_than_a_few_are_no_strays(
    beside: list[str], info: TensorInfo
) -> None:
    network = {f"trunk.{name}": value for name, value in tensors("resnet-resnet18").items()}
    with pytest.raises(UsageError, match="nothing says which"):
        choose(network | dict.fromkeys(beside, info))


def test_beside_a_small_network_or_one_that_is_not_all_there_are_no_strays() -> None:
    small = {f"actor.{name}": info for name, info in tensors("alexnet-alexnet(num_classes=7)").items()}
    with pytest.raises(UsageError, match="nothing says which"):
        choose({**small, "log_std": VECTOR})  # a policy of a normal distribution
    network = {f"net.{name}": info for name, info in tensors("resnet-resnet18").items()}
    del network["net.layer1.0.conv1.weight"]
    with pytest.raises(UsageError, match="nothing says which"):
        choose({**network, "crit.weight": VECTOR})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_a_wrapper_is_seen_through(prefix: str) -> None:
    wrapped = {prefix + name: value for name, value in tensors("resnet-resnet18").items()}
    choice = choose(wrapped)
    assert (choice.spec.name, choice.wrapper) == ("resnet", prefix)
    stated = choose(wrapped, note={"name": "resnet"})
    assert stated.wrapper == prefix
    assert choose(tensors("resnet-resnet18")).wrapper == ""


def test_half_of_the_names_is_enough_and_less_is_not() -> None:
    names = tensors("gpt2-GPT2Model-1")
    most = dict(list(names.items())[: len(names) * 2 // 3])
    assert choose(most).spec.name == "gpt2"
    stray = {f"x{i}.y": value for i, value in enumerate(names.values())}
    with pytest.raises(UsageError, match="nothing says"):
        choose({**most, **stray})
    with pytest.raises(UsageError):
        choose({"weight": TensorInfo.of(DType.F32, (3, 3))})
    with pytest.raises(UsageError):
        choose({})


@pytest.mark.parametrize("name", ["embedding.weight", "weight", "encoder.embedding.weight"])
def test_a_tensor_or_two_are_no_damaged_model(name: str) -> None:
    with pytest.raises(UsageError, match="nothing says which architecture"):
        choose({name: TensorInfo.of(DType.F16, (32000, 256))})
    layers = {"output.weight": TensorInfo.of(DType.F32, (3, 4)), "output.bias": TensorInfo.of(DType.F32, (3,))}
    hidden = {
        f"hidden_layers.0.{name}": TensorInfo.of(DType.F32, (4, 4)[:rank])
        for name, rank in (("weight", 2), ("bias", 1))
    }
    assert choose(layers | hidden).spec.name == "mlp"
    with pytest.raises(UsageError, match="nothing says which architecture"):
        choose({name: info for name, info in (layers | hidden).items() if name != "output.bias"})


@pytest.mark.parametrize("part", range(4))
def test_no_spec_that_knows_the_names_is_left_out_unparsed(part: int) -> None:
    """The look at words is a bound on what the patterns match; and it spares most specs, which is why it is there."""
    seen: dict[str, set[str]] = {}
    spared = count = 0
    for case in ALL[part * len(ALL) // 4 : (part + 1) * len(ALL) // 4]:
        found = tensors(str(case))
        names = set(map(skeleton_of, found))
        if names <= seen.setdefault(case.spec, set()):  # another size of a model that was looked at
            continue
        seen[case.spec] |= names
        count += 1
        rater = Rater(found, Allowance(0))
        shares = {name: rater.share_of_patterns(load_spec(name)) for name in library_names()}
        for share in (0.5, 1.0):
            kept = [spec.name for spec in rater.likely(share)]
            near = [name for name in shares if shares[name] >= share]
            knowing = {name for name in near if rater.share_of_numbered(load_spec(name)) >= share}
            assert case.spec in knowing <= set(kept)
            spared += len(library_names()) - len(kept)
    assert spared > count * len(library_names())


@pytest.mark.parametrize("case", [case for case in ALL if case.config], ids=str)
def test_a_real_model_is_known_by_its_config(case: Case) -> None:
    assert case.config is not None
    config = case.config()
    words = [*config.get("architectures", []), config.get("model_type"), config.get("_class_name")]
    assert case.spec in shortlist.mentioning_any(words)
    choice = choose(infos(built(case).state_dict()), config=config)
    assert (choice.spec.name, choice.evidence) == (case.spec, "config.json")


def test_the_text_of_a_spec_shows_all_of_its_names() -> None:
    """Up to what is put into a placeholder where a spec is mounted."""
    for name in library_names():
        shown = {re.sub(r"\\\{.*?\\\}", ".*", re.escape(text)) for text in shortlist.templates_of(name)}
        known = re.compile("|".join(shown))
        assert all(known.fullmatch(rule.name.text) for rule in load_spec(name).rules), name


def forget_library() -> None:
    shortlist._index.cache_clear()
    shortlist.templates_of.cache_clear()


def test_a_mounted_spec_lends_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"inner": '"w.blue" = "1"', "outer": 'use = "inner"\nprefix = "top.w_"', "open": '"{any}.x{i}" = "1"'}
    monkeypatch.setattr(shortlist, "library_names", lambda: tuple(texts))
    monkeypatch.setattr(shortlist, "library_text", texts.__getitem__)
    forget_library()
    assert shortlist.shares(["top.w_w.blue"]) == {"outer": 1.0}
    assert shortlist.shares(["q.x3"]) == {"open": 1.0}
    assert shortlist.with_share(shortlist.shares(["q.y3", "w.blue"]), 1.0) == []
    forget_library()


def test_all_specs_that_names_may_fit_share_one_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several specs have such names, each in several assignments of its switches, and the names may have a prefix."""
    spent = 0
    spend = Budget.spend

    def counted(budget: Budget, steps: int) -> None:
        nonlocal spent
        spent += steps
        spend(budget, steps)

    monkeypatch.setattr(Budget, "spend", counted)
    monkeypatch.setattr(choosing, "STEPS", 50_000)
    names = [f"model.layers.{i}.self_attn.{part}_proj.weight" for i in range(300) for part in "qkvo"]
    with suppress(UsageError):
        choose(dict.fromkeys(names, TensorInfo.of(DType.F32, (8, 8))))
    assert 40_000 < spent < 60_000


def test_an_architecture_that_takes_too_long_to_work_out_is_none_that_the_names_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """100,000 names ``layers.N.weight`` are of no architecture, and that is what a user has to know."""
    monkeypatch.setattr(evaluate, "MAX_STEPS", 10)
    network = tensors("resnet-resnet18")
    with pytest.raises(UsageError, match="nothing says which architecture"):
        choose(network)
    with pytest.raises(StepsError, match=r"^resnet takes too many steps to work out for these 122 tensors") as caught:
        solver.solve(load_spec("resnet"), network)
    assert caught.value.hint is not None
    assert "--arch OTHER.pth" in caught.value.hint


def test_of_no_tensors_no_spec_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """All specs have all of no names, and loading all takes seconds."""
    monkeypatch.setattr("ckptconv.arch.choose.load_spec", pytest.fail)
    with pytest.raises(UsageError, match="there are no tensors in the model"):
        choose({})


def test_specs_that_cannot_be_the_best_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's own names have something in common with those of 25 specs, and all of them with few."""
    read: set[str] = set()

    def load(name: str) -> Spec:
        read.add(name)
        return load_spec(name)

    monkeypatch.setattr("ckptconv.arch.rating.load_spec", load)
    with ckptconv.open(LLAMA) as checkpoint:
        names = infos_of(checkpoint)
    assert choose(names).spec.name == "llama_meta"
    assert len(read) < 5
    assert len(shortlist.with_share(shortlist.shares(names), ENOUGH)) > 20
