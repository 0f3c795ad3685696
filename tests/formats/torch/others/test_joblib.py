"""joblib's files, with joblib.load as the judge."""

from __future__ import annotations

import io
import pickle
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import joblib
import lz4.frame
import numpy as np
import pytest
import torch
from joblib.numpy_pickle import NumpyArrayWrapper
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import ckptconv
from ckptconv.api.inspect import inspect
from ckptconv.core.arrays import NUMPY_NAMES
from ckptconv.core.metadata import Opaque
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    LimitError,
    MissingExtraError,
    UnknownFormatError,
    UnsupportedError,
)
from ckptconv.formats.torch.others import joblib_machine
from ckptconv.io import spool
from ckptconv.io.source import Source
from tests.formats.torch.judges import assert_detected_whatever_its_name
from tests.hostile import between
from tests.hostile.asked import U1
from tests.hostile.cases import SYSTEM, call, named, stacked
from tests.hostile.implicit import new, state
from tests.support.craft import text

# lz4's files flush what joblib has closed, which Python says since 3.13.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.BufferedReader>:pytest.PytestUnraisableExceptionWarning"
)

RELEASES = Path(__file__).parents[4] / "fixtures" / "others" / "joblib"
METHODS = [0, ("zlib", 1), ("zlib", 9), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3), ("lz4", 3)]
TYPES = ["?", "i1", "u1", "<f2", "<c8"]
TYPES += [order + code for order in "<>" for code in ("i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "c16")]
SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3), (4, 0, 2), (2, 3, 4), (40, 50)]
X = np.random.default_rng(0).random((40, 4))
Y = (X[:, 0] > 0.5).astype(int)


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    made: dict[str, Any] = {}
    for code in TYPES:
        for shape in SHAPES:
            array = np.asarray(np.random.default_rng(1).random(shape) * 100).astype(code)
            forms = {"C": array, "F": np.asfortranarray(array), "T": array.T, "S": array[..., ::2] if shape else array}
            made |= {f"{code} {shape} {form}": np.asarray(one) for form, one in forms.items()}
    return made


def dumped(path: Path, value: object, compress: Any = 0, protocol: int = 4) -> Path:
    joblib.dump(value, path, compress, protocol)
    return path


def assert_as_joblib_loads(path: Path) -> None:
    expected = joblib.load(path)
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == list(expected)
        for name, array in expected.items():
            tensor = checkpoint[name]
            assert (NUMPY_NAMES[tensor.info.dtype], tensor.info.shape) == (array.dtype.name, array.shape), name
            assert bytes(tensor.read()) == array.tobytes(), name


@pytest.mark.parametrize("compress", METHODS, ids=str)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_are_what_joblib_loads(compress: Any, protocol: int, tmp_path: Path) -> None:
    assert_as_joblib_loads(dumped(tmp_path / "a.joblib", arrays(), compress, protocol))


@pytest.mark.parametrize("protocol", range(6))
def test_it_is_detected_whatever_its_name(protocol: int, tmp_path: Path) -> None:
    assert_detected_whatever_its_name(dumped(tmp_path / "a.joblib", {"w": X}, 0, protocol), "joblib")
    assert_detected_whatever_its_name(dumped(tmp_path / "a.joblib", {"w": X}, 3, protocol), "joblib")


def test_a_file_of_before_1_2_has_no_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: NumpyArrayWrapper, array: np.ndarray[Any, Any], pickler: Any) -> None:
        pickler.file_handle.write(array.tobytes(self.order))

    monkeypatch.setattr(NumpyArrayWrapper, "write_array", write)
    monkeypatch.setattr(NumpyArrayWrapper, "__getstate__", without_alignment)
    assert_as_joblib_loads(dumped(tmp_path / "a.joblib", {"a": X, "b": X.T, "c": Y}))


def without_alignment(wrapper: NumpyArrayWrapper) -> dict[str, Any]:
    return {key: value for key, value in vars(wrapper).items() if key != "numpy_array_alignment_bytes"}


def test_what_is_no_tensor_is_metadata(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None, X[:2]], dtype=object)
    value: dict[str, Any] = {
        "o": objects, "s": np.array(["one", "three"]), "d": np.array(["2020-01-01"], "M8[D]"), "w": {"w": X},
        "v": np.zeros(3, [("a", "<i4"), ("b", "<f8", (2,))]), "vo": np.array([(1, None)], [("a", "<i4"), ("b", "O")]),
    }  # fmt: skip
    path = dumped(tmp_path / "a.joblib", value)
    with ckptconv.open(path) as checkpoint:
        assert bytes(next(iter(checkpoint.all_tensors.values())).read())
        assert any(bytes(tensor.read()) == X[:2].tobytes() for tensor in checkpoint.all_tensors.values())
        root: Any = checkpoint.root
        assert root["s"].data == value["s"].tobytes()
        assert all(isinstance(root[key], Opaque) for key in ("o", "d", "v", "vo"))
    assert inspect(path).to_dict()["verdict"] != "would run code"


def test_a_mapped_array_is_an_array(tmp_path: Path) -> None:
    joblib.dump({"w": X}, tmp_path / "x.joblib")
    mapped = joblib.load(tmp_path / "x.joblib", mmap_mode="r")
    assert type(mapped["w"]) is np.memmap
    path = dumped(tmp_path / "a.joblib", mapped)
    assert_as_joblib_loads(path)
    assert inspect(path).to_dict()["verdict"] == "plain"


def test_a_mapped_array_is_one_in_every_pickle(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "mapped", "f4", "w+", shape=(2, 3))
    mapped[:] = np.arange(6).reshape(2, 3)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": mapped}))
    with ckptconv.open(tmp_path / "a.pkl") as checkpoint:
        assert bytes(checkpoint["w"].read()) == mapped.tobytes()
    torch.save({"w": mapped, "v": torch.ones(2)}, tmp_path / "a.pth")
    assert [inspect(tmp_path / name).to_dict()["verdict"] for name in ("a.pkl", "a.pth")] == ["plain", "plain"]


MEMMAP = named("numpy", "memmap")
OTHERWISE = {
    "a call": MEMMAP + text("x") + b"\x85R",
    "a new object": MEMMAP + text("x") + b"\x85\x81",
    "INST": b"(" + text("x") + b"inumpy\nmemmap\n",
    "a default": call("collections", "defaultdict", MEMMAP),
    "in the state of an object": new("types", "SimpleNamespace") + state(close=b"]" + MEMMAP + b"a") + b"b",
    "in one of somebody's": new("models", "Net") + state(hook=MEMMAP) + b"b",
    "a partial": call("functools", "partial", MEMMAP),
    "changed": MEMMAP + b"N" + state(__array_finalize__=named("models", "run")) + b"\x86b",
    "an attribute of it": call("builtins", "getattr", MEMMAP, text("flush")),
    "reconstructed": call("copyreg", "_reconstructor", MEMMAP, named("builtins", "object"), b"N"),
    "the shape of an array": call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"), MEMMAP, b"C\1b"),
}


@pytest.mark.parametrize("made", OTHERWISE.values(), ids=OTHERWISE)
def test_whatever_else_is_done_with_the_class_of_mapped_arrays_counts(made: bytes, tmp_path: Path) -> None:
    said = between.wrapper().replace(named("numpy", "ndarray"), MEMMAP) + between.PADDING
    for path, data in (("a.joblib", between.file(said + between.FIVE, made)), ("a.pkl", between.file(made))):
        (tmp_path / path).write_bytes(data)
        assert inspect(tmp_path / path).to_dict()["verdict"] == "would run code"


MODELS = {
    "a pipeline": make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y),
    "a forest": RandomForestClassifier(5).fit(X, Y),
    "boosted trees": GradientBoostingClassifier(n_estimators=3).fit(X, Y),
    "a vectorizer": TfidfVectorizer().fit([" ".join(f"word{i}" for i in range(3000))]),
}


@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_models_of_scikit_learn_are_opaque(model: Any, compress: int, tmp_path: Path) -> None:
    assert inspect(dumped(tmp_path / "a.joblib", model, compress)).to_dict()["verdict"] == "opaque"


def test_the_tensors_of_a_pipeline_are_those_that_were_fitted(tmp_path: Path) -> None:
    with ckptconv.open(dumped(tmp_path / "a.joblib", MODELS["a pipeline"])) as checkpoint:
        coefficients = next(one for name, one in checkpoint.all_tensors.items() if name.endswith("coef_"))
        assert bytes(coefficients.read()) == MODELS["a pipeline"][-1].coef_.tobytes()


def test_arrays_stay_in_the_file_when_it_is_opened(tmp_path: Path) -> None:
    path = dumped(tmp_path / "a.joblib", {"a": np.zeros(1 << 20), "b": np.zeros(1 << 20, np.uint8)})
    with Source(path) as source:
        from ckptconv.formats.registry import by_name

        checkpoint = by_name("joblib").read(source)
        assert source.bytes_read < 1 << 14
        assert checkpoint["a"].span is not None


SMALL = {"a": np.arange(3.0), "o": np.array([None, "x"], dtype=object), "b": np.ones(2, np.uint8)}


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("bz2", 3), ("xz", 3), ("lzma", 3), ("lz4", 3)], ids=str)
def test_every_truncation_is_refused(compress: Any, tmp_path: Path) -> None:
    data = dumped(tmp_path / "a", SMALL, compress).read_bytes()
    path = tmp_path / "cut.joblib"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CkptconvError):
            ckptconv.open(path)


@pytest.mark.parametrize("compress", [("zlib", 3), ("bz2", 3), ("xz", 3), ("lz4", 3)], ids=str)
def test_what_follows_a_compressed_file_is_refused(compress: Any, tmp_path: Path) -> None:
    path = dumped(tmp_path / "a.joblib", SMALL, compress)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CorruptFileError, match="follows"):
        ckptconv.open(path)


def test_lz4_needs_a_package_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dumped(tmp_path / "a.joblib", SMALL, "lz4")
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(MissingExtraError) as refused:
        ckptconv.open(path)
    assert refused.value.hint == "pip install 'ckptconv[lz4]'"


@pytest.mark.parametrize("value", [SMALL, {"w": np.arange(5000.0)}, bytes(1 << 18)], ids=["small", "large", "zeros"])
def test_a_file_of_lz4_that_is_cut_short_is_reported_as_that(value: object, tmp_path: Path) -> None:
    data = dumped(tmp_path / "a.joblib", value, "lz4").read_bytes()
    for size in (40, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "a.joblib").write_bytes(data[:size])
        with pytest.raises(CorruptFileError, match="LZ4 stream ends too early"):
            ckptconv.open(tmp_path / "a.joblib")


def test_calls_in_what_lz4_compressed_count(tmp_path: Path) -> None:
    (tmp_path / "a.joblib").write_bytes(lz4.frame.compress(between.MIXED))
    assert inspect(tmp_path / "a.joblib").to_dict()["verdict"] == "would run code"


def test_lz4_of_something_else_is_reported_as_that(tmp_path: Path) -> None:
    (tmp_path / "a.lz4").write_bytes(lz4.frame.compress(b"no pickle"))
    with pytest.raises(UnknownFormatError, match="lz4"):
        ckptconv.open(tmp_path / "a.lz4")


def test_a_bomb_of_lz4_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "FREE_ARCHIVE_BYTES", 1 << 16)
    path = dumped(tmp_path / "a.joblib", {"w": np.zeros(1 << 22)}, "lz4")
    with pytest.raises(LimitError, match="inflates"):
        ckptconv.open(path)


@pytest.mark.parametrize("compress", [0, ("lz4", 3)], ids=str)
def test_flipped_bits_are_read_as_joblib_does_or_refused(compress: Any, tmp_path: Path) -> None:
    data = bytearray(dumped(tmp_path / "a", {"a": np.arange(3.0)}, compress, 2).read_bytes())
    path = tmp_path / "flipped.joblib"
    read = 0
    for at in range(len(data)):
        for bit in (0, 4, 7):
            data[at] ^= 1 << bit
            path.write_bytes(data)
            data[at] ^= 1 << bit
            try:
                checkpoint = ckptconv.open(path)
            except CkptconvError:
                continue
            with checkpoint:
                ours = {name: bytes(tensor.read()) for name, tensor in checkpoint.items()}
            if inspect(path).to_dict()["verdict"] != "plain":
                continue
            try:
                loaded = joblib.load(path)
            except Exception:  # of a version that numpy does not know
                continue
            assert ours == {str(name): array.tobytes() for name, array in loaded.items()}, (at, bit)
            read += 1
    assert read


GOLDEN = (
    b"\x80\x02}X\x01\0\0\0w"
    b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}("
    b"X\x08\0\0\0subclasscnumpy\nndarray\nX\x05\0\0\0shapeK\x02\x85X\x05\0\0\0orderX\x01\0\0\0C"
    b"X\x05\0\0\0dtypecnumpy\ndtype\nX\x02\0\0\0f4\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    b"X\x0a\0\0\0allow_mmap\x88X\x1b\0\0\0numpy_array_alignment_bytesK\x10ub"
    b"\x02\xff\xff\x00\x00\x80\x3f\x00\x00\x00\x40"
    b"s."
)


def test_a_file_that_was_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.joblib").write_bytes(GOLDEN)
    assert joblib.load(io.BytesIO(GOLDEN))["w"].tolist() == [1, 2]
    assert_as_joblib_loads(tmp_path / "a.joblib")


def built(**changed: bytes) -> bytes:
    """A file of one array, its wrapper's state changed; b"" leaves an entry out."""
    said = {
        "subclass": named("numpy", "ndarray"), "shape": b"K\5\x85", "order": text("C"), "dtype": U1,
        "allow_mmap": b"\x89", "numpy_array_alignment_bytes": b"K\x10",
    } | changed  # fmt: skip
    wrapped = new("joblib.numpy_pickle", "NumpyArrayWrapper") + state(**{k: v for k, v in said.items() if v}) + b"b"
    return between.file(wrapped + between.PADDING + between.FIVE)


V8 = b"cnumpy\ndtype\n" + text("V8") + b"\x89\x88\x87R"
WRAPPED = between.wrapper()
OLD = new("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper")
AGAIN = between.wrapper(made=new("joblib.numpy_pickle", "NumpyArrayWrapper") + b"q\7") + b"\1\xff" + between.FIVE
AGAIN += b"0h\7}b"
REFUSED: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "a shape that is larger": (built(shape=b"K\6\x85"), CorruptFileError),
    "a shape that is smaller": (built(shape=b"K\4\x85"), CorruptFileError),
    "a shape of billions": (built(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87"), CorruptFileError),
    "a negative shape": (built(shape=b"J\xff\xff\xff\xff\x85"), CorruptFileError),
    "a shape that is not a tuple": (built(shape=b"K\5"), CorruptFileError),
    "another order": (built(order=text("A")), CorruptFileError),
    "no shape": (built(shape=b""), CorruptFileError),
    "more than that": (built(more=b"N"), CorruptFileError),
    "a dtype that is text": (built(dtype=text("u1")), CorruptFileError),
    "a dtype of no size": (built(dtype=b"cnumpy\ndtype\n" + text("S0") + b"\x89\x88\x87R"), UnsupportedError),
    "a dtype without its state": (built(dtype=V8), CorruptFileError),
    "a class of another's": (built(subclass=named("models", "Array")), UnsupportedError),
    "a wrapper that is given a state twice": (between.file(AGAIN), CorruptFileError),
    "a wrapper without a state": (between.file(new("joblib.numpy_pickle", "NumpyArrayWrapper")), UnsupportedError),
    "a wrapper in an array of objects": (between.file(between.objects(between.ARRAY)), CorruptFileError),
    "two joblibs": (between.file(between.ARRAY, between.wrapper(made=OLD)), UnsupportedError),
    "a file of before 0.10": (between.file(new("joblib.numpy_pickle", "NDArrayWrapper") + state(
        filename=text("a_01.npy")) + b"b"), UnsupportedError),
    "one that is compressed": (between.file(new("joblib.numpy_pickle", "ZNDArrayWrapper") + state(
        filename=text("a_01.npy.z")) + b"b"), UnsupportedError),
    "an lz4 file that is none": (b"\x04\x22\x4d\x18" + bytes(20), UnknownFormatError),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error"), REFUSED.values(), ids=REFUSED)
def test_what_joblib_would_not_write_is_refused(data: bytes, error: type[CkptconvError], tmp_path: Path) -> None:
    path = tmp_path / "a.joblib"
    path.write_bytes(data)
    with pytest.raises(error) as refused:
        ckptconv.open(path)
    assert refused.value.hint
    assert "\n" not in refused.value.message


def test_there_are_only_so_many_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib_machine, "MAX_BUILDS", 3)
    (tmp_path / "a.joblib").write_bytes(between.file(between.ARRAY))
    ckptconv.open(tmp_path / "a.joblib").close()
    (tmp_path / "a.joblib").write_bytes(between.file(between.ARRAY, between.ARRAY))
    with pytest.raises(LimitError):
        ckptconv.open(tmp_path / "a.joblib")


@pytest.mark.parametrize("path", sorted(RELEASES.glob("*.joblib")), ids=lambda path: path.name)
def test_files_of_each_release_are_read_as_it_reads_them(path: Path) -> None:
    release = path.name.removesuffix(".joblib").partition("-")[0]
    with np.load(RELEASES / f"{release}.npz") as read, ckptconv.open(path) as checkpoint:
        own = {name.partition("|")[2]: read[name] for name in read.files if name.startswith(f"{path.name}|")}
        bias = own.pop("objects.0.bias")
        assert list(own) == list(checkpoint)
        for name, array in own.items():
            assert np.array_equal(checkpoint[name].numpy(), array), name
            assert checkpoint[name].info.shape == array.shape
        assert [bytes(one.read()) for one in checkpoint.extras.values()] == [bias.tobytes()]


def test_sklearns_own_old_joblib_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(between.file(between.wrapper(alignment=b"N", made=OLD) + between.FIVE))
    with ckptconv.open(tmp_path / "a.pkl") as checkpoint:
        assert bytes(checkpoint["k0"].read()) == between.FIVE


def test_another_reader_refuses_it(tmp_path: Path) -> None:
    path = dumped(tmp_path / "a.joblib", {"w": X})
    with pytest.raises(CkptconvError):
        ckptconv.open(path, format="pickle")


WRAPPER = named("joblib.numpy_pickle", "NumpyArrayWrapper")
MADE = new("joblib.numpy_pickle", "NumpyArrayWrapper")
WAYS = {
    "copyreg.__newobj__": call("copyreg", "__newobj__", WRAPPER),
    "its __new__": call("builtins", "getattr", WRAPPER, text("__new__")) + WRAPPER + b"\x85R",
    "object.__new__": stacked("builtins", "object.__new__") + WRAPPER + b"\x85R",
    "numpy's scalar": call("numpy.core.multiarray", "scalar", between.OBJECT, MADE),
    "a partial": call("functools", "partial", WRAPPER) + b")R",
    "copyreg._reconstructor": call("copyreg", "_reconstructor", WRAPPER, named("builtins", "object"), b"N"),
    "copyreg._reconstructor, of itself": call("copyreg", "_reconstructor", WRAPPER, WRAPPER, b"N"),
    "an item": call("_operator", "getitem", MADE + b"\x85", b"K\0"),
    "the class as an item": call("_operator", "getitem", WRAPPER + b"\x85", b"K\0") + b")\x81",
    "INST": b"(ijoblib.numpy_pickle\nNumpyArrayWrapper\n",
    "OBJ": b"(" + WRAPPER + b"o",
    "a call": WRAPPER + b"(" + named("numpy", "ndarray") + b"K\5\x85" + text("C") + U1 + b"tR",
    "arguments": WRAPPER + b"K\1\x85\x81",
    "NEWOBJ_EX": WRAPPER + b")}\x92",
    "copy": call("copy", "copy", MADE),
    "a default": call("collections", "defaultdict", WRAPPER),
    "a path": stacked("joblib", "numpy_pickle.NumpyArrayWrapper") + b")\x81",
    "an attribute": call("builtins", "getattr", named("joblib", "numpy_pickle"), text("NumpyArrayWrapper")) + b")\x81",
    "another class": new("argparse", "Namespace") + b"N}" + text("__class__") + WRAPPER + b"s\x86b",
    "a dict": call("collections", "OrderedDict", b"((" + text("a") + MADE + b"tl"),
}


@pytest.mark.parametrize("made", WAYS.values(), ids=WAYS)
def test_however_a_wrapper_is_made_no_call_is_hidden(made: bytes, tmp_path: Path) -> None:
    behind = between.file(between.wrapper(made=made) + between.PADDING + between.FIVE, SYSTEM)
    within = between.file(between.wrapper(made=made, alignment=b"N", size=len(SYSTEM) + 1) + SYSTEM + b"0")
    for data in (behind, within):
        (tmp_path / "a.joblib").write_bytes(data)
        try:
            said = inspect(tmp_path / "a.joblib").to_dict()
        except CkptconvError:
            continue
        assert said["verdict"] == "would run code"


def test_an_array_of_objects_that_pickle_reads_with_other_memos_is_refused(tmp_path: Path) -> None:
    shell = call("numpy.core.multiarray", "_reconstruct", named("numpy", "ndarray"), b"K\0\x85", b"C\1b")
    inner = shell + b"(K\1K\1\x85" + between.OBJECT + b"\x89(h\0)Rltb."
    nested = b"\x80\4" + named("collections", "OrderedDict") + b"\x940" + inner
    outer = named("models", "run") + b"q\0"
    path = tmp_path / "a.joblib"
    path.write_bytes(between.file(outer, between.wrapper(between.OBJECT, 1) + nested, between.ARRAY))
    with pytest.raises(CorruptFileError, match=r"models\.run"):
        ckptconv.open(path)


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_that_begins_with_an_array_of_estimators_is_read(protocol: int, tmp_path: Path) -> None:
    trees = np.array([[DecisionTreeClassifier().fit(X, Y)], [LogisticRegression().fit(X, Y)]], dtype=object)
    path = dumped(tmp_path / "a.joblib", {"first": trees, "w": X}, 0, protocol)
    assert inspect(path).to_dict()["verdict"] == "opaque"


FAILS = b"N)R"
"""A call of None."""


def test_what_pickle_would_call_counts_up_to_where_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.joblib"
    key = b"}" + new("models", "Key") + b"\x85Ns0"
    for code, refused in ((FAILS + SYSTEM, False), (SYSTEM + FAILS, True), (key + SYSTEM, True)):
        first = between.wrapper(alignment=b"N", size=len(code) + 1) + b"0" + code
        path.write_bytes(between.file(first))
        with pytest.raises(CorruptFileError, match="system") if refused else nullcontext():
            ckptconv.open(path).close()


def test_the_calls_of_a_hostile_file_are_reported_by_name(tmp_path: Path) -> None:
    for data in between.CALLS.values():
        (tmp_path / "a.joblib").write_bytes(data)
        said = inspect(tmp_path / "a.joblib").to_dict()
        assert said["verdict"] == "would run code"
        assert any(one["class"] == "os.system" for one in said["opaque"] if one["called"])
    assert SYSTEM
