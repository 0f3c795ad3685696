"""No writer emits a pickle global that is not on a fixed list, whatever the source says."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptconv
from ckptconv.api.inspecting.embedded import LOADER
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import MetaNode, NumpyArray, NumpyScalar, Opaque, StateDict, TorchSize, TorchValue
from ckptconv.core.notes import Notes, TensorNote
from ckptconv.errors import CkptconvError
from ckptconv.formats import registry
from ckptconv.formats.base import WriteOptions
from ckptconv.io.target import Target
from tests.hostile.make import corpus, place
from tests.support.strategies import FLOATS, INTS, TEXT, TYPED, state_dicts

FIXED = {
    "collections OrderedDict", "collections defaultdict", "collections Counter", "_codecs encode", "torch Size",
    "torch device", "torch.serialization _get_layout", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter", "torch._tensor _rebuild_from_type_v2",
    "torch._utils _rebuild_parameter_with_state", "torch Tensor", "torch.nn.parameter Parameter", "torch.storage UntypedStorage", "numpy dtype", "numpy ndarray",
    "numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct",
    *(f"__builtin__ {name}" for name in ["set", "frozenset", "bytearray", "complex", "list", "dict", "tuple", "int", "float", "str", "bool"]),
}  # fmt: skip
NEVER = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER"}


def is_constant(spelled: str) -> bool:
    """Whether it is a dtype, a scheme, a memory format or a storage class of torch: a name that calls nothing."""
    module, _, name = spelled.partition(" ")
    kinds = (torch.dtype, torch.qscheme, torch.memory_format)
    return module == "torch" and (isinstance(getattr(torch, name, None), kinds) or name.endswith("Storage"))


def strange_opcodes(path: Path) -> list[str]:
    """What a written .pth names that is not on the list."""
    with zipfile.ZipFile(path) as file:
        pickles = [file.read(name) for name in file.namelist() if name.endswith(".pkl")]
    found = [(opcode.name, arg) for data in pickles for opcode, arg, _ in pickletools.genops(data)]
    strange = [name for name, _ in found if name in NEVER]
    named = [str(arg) for name, arg in found if name == "GLOBAL"]
    return strange + [name for name in named if name not in FIXED and not is_constant(name)]


CASES = [case for case in corpus() if case.verdict != "refused"]


@pytest.mark.parametrize("case", CASES, ids=[case.slug for case in CASES])
def test_a_file_of_the_corpus_becomes_a_pth_of_known_names(case: object, tmp_path: Path) -> None:
    path = place(case, tmp_path)  # type: ignore[arg-type]
    for name, options in {"bare.pth": {"bare": True}, "all.pth": {"allow_loss": ["all"]}}.items():
        try:
            ckptconv.convert(path, tmp_path / name, **options)  # type: ignore[arg-type]
        except CkptconvError:
            continue
        assert not strange_opcodes(tmp_path / name)
        found = ckptconv.inspect(tmp_path / name)
        kept = {use.by for use in found.opaque if use.runs}  # bytes stay bytes, and may be a pickle that others load
        assert found.verdict == "plain" or kept == {LOADER}


ANY_NAME = TEXT | st.sampled_from(["os.system", "os\nsystem", "float32", "FloatStorage", "float32\nR", "builtins.eval"])
PLAIN = st.none() | st.booleans() | INTS | FLOATS | TEXT | st.binary(max_size=6)
HASHABLE = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
HOWS: st.SearchStrategy[Any] = st.sampled_from(["named", "object", "constructed", "called"])
KINDS = st.sampled_from(["dtype", "device", "layout", "qscheme", "memory_format"])
LEAVES = st.one_of(
    TEXT, HASHABLE, st.builds(TorchValue, KINDS, ANY_NAME), st.lists(st.integers(), max_size=3).map(TorchSize),
    st.builds(NumpyScalar, st.just("<f8"), st.binary(min_size=8, max_size=8)),
    st.builds(NumpyArray, st.sampled_from(["<f4", ">i4", "|S4"]), st.just((1,)), st.binary(min_size=4, max_size=4)),
)  # fmt: skip


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> MetaNode:
    """Any tree of metadata, of names that someone chose."""
    kind = draw(st.sampled_from(["leaf", "opaque", "list", "dict", "set"])) if depth else "leaf"
    below = trees(depth - 1)
    match kind:
        case "leaf":
            return draw(LEAVES)
        case "opaque":
            return Opaque(
                draw(ANY_NAME), draw(HOWS), (draw(below),), {draw(ANY_NAME): draw(below)}, draw(below), [draw(below)],
                [(draw(HASHABLE), draw(below))],
            )  # fmt: skip
        case "list":
            return [draw(below), (draw(below),)]
        case "dict":
            return {draw(ANY_NAME): draw(below), Opaque(draw(ANY_NAME), draw(HOWS)): draw(below)}
        case _:
            return {draw(HASHABLE), (Opaque(draw(ANY_NAME), draw(HOWS)),)}


@settings(max_examples=200)
@given(trees(), trees(), ANY_NAME)
def test_no_tree_of_metadata_brings_a_name_into_a_pth(
    tmp_path_factory: pytest.TempPathFactory, tree: MetaNode, attribute: MetaNode, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.pth"
    with ckptconv.open(FIXTURE) as opened:
        first = next(iter(opened))
        notes = Notes(tensors={first: TensorNote(True, True, name)}, attributes={first: {name: attribute}})
        root = {"m": tree, name: tree, "state_dict": StateDict(plain=((0, name, tree),), versions=attribute)}
        checkpoint = Checkpoint(opened, root=root, notes=notes)
        try:
            with Target(path, replace=True) as target:
                registry.by_name("torch").write(checkpoint, target, WriteOptions())
                target.commit()
        except CkptconvError:
            return
    assert not strange_opcodes(path)


@settings(max_examples=60)
@given(state_dicts(), TYPED)
def test_what_torch_saves_comes_back_with_known_names_through_every_format(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, object], value: object
) -> None:
    folder = tmp_path_factory.getbasetemp()
    torch.save({"state_dict": state, "m": value}, folder / "saved.pth")
    try:
        ckptconv.convert(folder / "saved.pth", folder / "between.safetensors", force=True, allow_loss=["all"])
        for source in ("saved.pth", "between.safetensors"):
            ckptconv.convert(folder / source, folder / "back.pth", force=True, allow_loss=["all"])
            assert not strange_opcodes(folder / "back.pth")
    except CkptconvError:
        return


FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits-raw.pth"
