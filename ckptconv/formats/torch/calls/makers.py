"""Calls with which scikit-learn, pandas, numpy and tensordict reconstruct their own pickled objects, and that do
nothing else.

Each is known by its exact name, or is a class in one of their compiled modules. It is harmless only if its arguments
are plain values, arrays, and objects of its own package: ``_new_Index(cls, …)`` constructs any class that it is given.

Sources: sklearn/neighbors/_binary_tree.pxi.tp (`newObj`), sklearn/tree/_tree.pyx (`Tree.__reduce__`),
pandas/core/indexes/base.py (`_new_Index`), pandas/_libs/internals.pyx (`_unpickle_block`), numpy/ma/core.py
(`_mareconstruct`).
"""

from __future__ import annotations

from ckptconv.formats.torch.calls.new_objects import MOST_OF_STATE, leaves
from ckptconv.formats.torch.pickle import Global, UnbuiltObject, Value
from ckptconv.formats.trees import tensordicts

_BY_NAME = frozenset(
    f"{module}.{name}" for module, names in {
        "pandas": "PeriodDtype StringDtype Interval",
        "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
        "pandas._libs.internals": "BlockPlacement _unpickle_block",
        "pandas._libs.tslibs.nattype": "_nat_unpickle",
        "pandas._libs.tslibs.timedeltas": "_timedelta_unpickle",
        "pandas._libs.tslibs.timestamps": "_unpickle_timestamp",
        "pandas.core.dtypes.dtypes": "PeriodDtype",
        "pandas.core.arrays.string_": "StringDtype",
        "pandas.core.indexes.base": "_new_Index",
        "pandas.core.indexes.datetimes": "_new_DatetimeIndex",
        "pandas.core.indexes.interval": "_new_IntervalIndex",
        "pandas.core.indexes.period": "_new_PeriodIndex",
        "pandas.core.internals.managers": "BlockManager SingleBlockManager",
        "sklearn.metrics._dist_metrics": "newObj",
        "sklearn.neighbors._ball_tree": "newObj",
        "sklearn.neighbors._kd_tree": "newObj",
    }.items() for name in names.split()
)  # fmt: skip

_COMPILED = (
    "pandas._libs.tslibs.offsets", "sklearn._loss._loss", "sklearn.linear_model._sgd_fast",
    "sklearn.neighbors._quad_tree", "sklearn.tree._criterion", "sklearn.tree._splitter", "sklearn.tree._tree",
)  # fmt: skip
"""Modules in which all classes may be called, and the functions that Cython calls to create them."""

_BESIDE = frozenset(
    ["builtins.slice", "collections.deque", "datetime.timedelta", "datetime.timezone", "zoneinfo.ZoneInfo"]
)
"""Classes of the standard library whose objects they contain."""

_CYTHON = "__pyx_unpickle_"

_MASKED = frozenset(f"numpy.ma{module}.{name}" for module in ("", ".core") for name in ("MaskedArray", "mvoid"))


def makes_its_own(name: Global, args: tuple[Value, ...]) -> bool:
    """Whether a call only creates an object of its own package."""
    if name == Global("numpy.ma.core", "_mareconstruct"):
        return [str(arg) for arg in args[:1]] != [] and str(args[0]) in _MASKED and _are_of("numpy", args)
    if str(name) == tensordicts.MAKES:
        return _makes_tensordict(args)
    is_class = name.name[:1].isupper() or name.name.startswith(_CYTHON)
    if str(name) not in _BY_NAME and not (name.module in _COMPILED and is_class):
        return False
    return "." not in name.name and _are_of(name.module.partition(".")[0], args)


def _makes_tensordict(args: tuple[Value, ...]) -> bool:
    """Whether the class only stores its state, and the state is an honest one."""
    match args:
        case Global() as cls, dict() as state if str(cls) in tensordicts.CLASSES:
            hooks = tensordicts.HOOKS.intersection(state)
            if any(state[key] is not None for key in hooks):
                return False
            return tensordicts.ATTRIBUTES.issuperset(state.keys() - hooks) and _are_of("tensordict", (state,))
    return False


def _are_of(package: str, args: tuple[Value, ...]) -> bool:
    """Whether all classes and objects among the arguments are from this package or numpy, or are plain values."""
    for leaf in leaves(args, MOST_OF_STATE):
        if isinstance(leaf, UnbuiltObject):
            if leaf.how == "called" or not (leaf.name in _BESIDE or leaf.name.startswith((f"{package}.", "numpy."))):
                return False
        elif isinstance(leaf, Global) and not (_is_class(leaf) and leaf.module.partition(".")[0] in (package, "numpy")):
            return False
    return True


def _is_class(name: Global) -> bool:
    return name.name == "ndarray" or (name.name.lstrip("_")[:1].isupper() and "." not in name.name)
