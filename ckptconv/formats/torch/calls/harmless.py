"""Calls in a pickle that only make a plain value. They are not made here either, but need not be reported.

They are listed by exact name, and count as harmless only with harmless arguments. `new_objects` covers the creation of
objects.
"""

from __future__ import annotations

from ckptconv.formats.torch.calls.capable import could_run
from ckptconv.formats.torch.calls.makers import makes_its_own
from ckptconv.formats.torch.calls.new_objects import (
    ITER,
    holds_classes_or_objects,
    holds_objects,
    is_dunder,
    is_of_library,
    is_of_torch,
    named,
)
from ckptconv.formats.torch.pickle import Global, UnbuiltObject, Value

Args = tuple[Value, ...]

_HARMLESS = frozenset(
    [f"{module}.{name}" for module, names in {
        "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        "pathlib._local": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal", "fractions": "Fraction", "uuid": "UUID SafeUUID", "zoneinfo": "ZoneInfo",
        "ipaddress": "IPv4Address IPv4Network IPv4Interface IPv6Address IPv6Network IPv6Interface",
    }.items() for name in names.split()] +
    ["builtins.range", "builtins.slice", "collections.deque", "types.SimpleNamespace", "argparse.Namespace",
     "re._compile", "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
     "numpy.random._pickle.__bit_generator_ctor", "numpy.dtype", "numpy.core.multiarray.scalar",
     "numpy._core.multiarray.scalar", "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer",
     "collections.defaultdict", "random.Random", "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
     "ultralytics.utils.IterableSimpleNamespace", "ultralytics.yolo.utils.IterableSimpleNamespace",
     "functools.partial", "itertools.count", "logging.getLogger", "operator.itemgetter", "torch._C.Generator",
     "torch.nn.parameter.UninitializedBuffer", "torch.nn.parameter.UninitializedParameter"]
)  # fmt: skip
"""Calls that make a value and do nothing else, by exact name: a module has more than its classes (`uuid` has a
function that runs any command)."""

_KEPT = {
    "builtins.slice": 3, "collections.defaultdict": 1, "functools.partial": 1_000_000,
    "datetime.datetime": 2, "datetime.time": 2, "datetime.timezone": 1,
    "numpy.dtype": 1, **{f"numpy.{name}": 1 for name in ("core.multiarray.scalar", "_core.multiarray.scalar")},
    **{f"numpy.{name}": 2 for name in ("core.numeric._frombuffer", "_core.numeric._frombuffer")},
}  # fmt: skip
"""How many of the first arguments may be classes or objects: these calls store them, or only check their type. Any
other call would iterate them or call their methods, which may be attributes that the pickle chose, even inside a tuple:
``IPv4Network`` converts the first of two arguments to text, and numpy's ``scalar`` returned the object it was given.
"""

_ITERATED = (list, tuple, dict, set, frozenset, str, bytes, bytearray)
"""Python's own containers, from which a pickled iterator is rebuilt; its state is its position."""

_TIME_ZONES = ("datetime.timezone", "zoneinfo.ZoneInfo", "zoneinfo.ZoneInfo._unpickle")
"""Harmless time zones. Any other class has Python code, which a time calls for its offset when it is hashed."""

_LOADERS = frozenset(["cdll", "pydll", "windll", "oledll"])
"""ctypes objects that load a library when an attribute with its name is accessed, and so run its code."""


_GENERATORS = frozenset(
    ["numpy.random._pickle.__bit_generator_ctor", "numpy.random.bit_generator.SeedSequence"]
    + [f"numpy.random._{name.lower()}.{name}" for name in ("MT19937", "PCG64", "Philox", "SFC64")]
    + ["numpy.random._pcg64.PCG64DXSM"]
)
"""What numpy's constructors of random generators may be given as arguments, which they call."""


def _takes(name: Global, args: Args) -> bool:
    """Whether a call that can be harmless is harmless with these arguments."""
    if name.name.endswith("Namespace"):  # SimpleNamespace takes a dict of attributes from Python 3.13 on
        return not args
    if name.module.startswith("numpy.random"):
        classes = (
            str(arg) if isinstance(arg, Global) else arg.name for arg in args if isinstance(arg, Global | UnbuiltObject)
        )
        nested = tuple(arg for arg in args if not isinstance(arg, Global | UnbuiltObject))
        return _GENERATORS.issuperset(classes) and not holds_classes_or_objects(nested)
    if str(name) in ("datetime.datetime", "datetime.time") and not all(
        isinstance(arg, UnbuiltObject) and arg.name in _TIME_ZONES
        for arg in args[1:2]
        if isinstance(arg, (Global, UnbuiltObject))
    ):
        return False
    objects = [arg.name for arg in args if isinstance(arg, UnbuiltObject)]
    if name.name in ("scalar", "_frombuffer") and any(name != "numpy.dtype" for name in objects):
        return False
    others = args[_KEPT.get(str(name), 0) :]
    if name.name == "deque":  # it stores the items of a list
        return not any(isinstance(arg, (Global, UnbuiltObject)) for arg in others)
    return not holds_classes_or_objects(others)


def _is_generic(name: Global) -> bool:
    """Whether subscripting a name only makes a generic type. For other classes it would call ``__class_getitem__``, and
    for ``typing.sys.modules`` return a module, which the pickle could then change.
    """
    if name.module == "typing":
        return name.name.isidentifier() and name.name[0].isupper()
    return name.module == "builtins" and name.name in ("dict", "frozenset", "list", "set", "tuple", "type")


def _names_types(what: Value) -> bool:
    """Whether a subscript consists of names and other subscripts. typing compares and hashes it."""
    if isinstance(what, UnbuiltObject):
        return named(what.name) in _SUBSCRIPTS or (what.how == "constructed" and not holds_objects(what.args))
    if isinstance(what, (dict, set, frozenset)):  # not a type: typing would put its repr into an error
        return False
    return not isinstance(what, (list, tuple)) or all(map(_names_types, what))


ZERO_STAGE = Global("deepspeed.runtime.zero.config", "ZeroStageEnum")

_ENUMS = frozenset(
    f"{module}.{name}" for module, names in {
        "deepspeed.runtime.zero.config": "ZeroStageEnum",
        "stable_baselines3.common.type_aliases": "TrainFrequencyUnit",
        "megatron.core.enums": "ModelType",
        "megatron.core.transformer.enums": "AttnBackend CudaGraphScope",
        "megatron.core.rerun_state_machine": "RerunMode RerunState RerunDiagnostic",
        "chemprop.nn.utils": "Activation",
        "pyannote.audio.core.task": "Problem Resolution Scale",
        "ray.rllib.algorithms.algorithm_config": "TorchCompileWhatToCompile",
        "optuna.study._study_direction": "StudyDirection",
        "optuna.trial._state": "TrialState",
        # training_args.bin, which transformers' Trainer and its kin write beside each model
        "transformers.trainer_utils": "EvaluationStrategy FSDPOption HubStrategy IntervalStrategy SaveStrategy "
        "SchedulerType ShardedDDPOption",
        "transformers.training_args": "OptimizerNames ParallelMode",
        "transformers.debug_utils": "DebugOption",
        "accelerate.utils.dataclasses": "ComputeEnvironment DistributedType DynamoBackend LoggerType PrecisionType",
        "sentence_transformers.training_args": "BatchSamplers MultiDatasetBatchSamplers",
        "sentence_transformers.base.sampler": "BatchSamplers MultiDatasetBatchSamplers",
        "peft.utils.peft_types": "PeftType TaskType",
        "timm.layers.format": "Format",
        "torchvision.transforms.functional": "InterpolationMode",
        "torchvision.transforms.autoaugment": "AutoAugmentPolicy",
        "torch.distributed._shard.sharded_tensor.metadata": "MEM_FORMAT_ENCODING",
        "torchao.quantization.quant_primitives": "MappingType ZeroPointDomain",
        "torchao.quantization.quantize_.common.kernel_preference": "KernelPreference",
        "torchao.quantization.quantize_.common.packing_format": "PackingFormat",
        "torchao.prototype.mx_formats.config": "ScaleCalculationMode",
    }.items() for name in names.split()
)  # fmt: skip
"""Enums of libraries. Calling one with a number or a string only looks up the member with that value."""

_SUBSCRIPTS = (Global("_operator", "getitem"), Global("operator", "getitem"), Global("types", "GenericAlias"))


def runs_when_named(name: Global) -> bool:
    """Whether merely looking up a name runs more than a module's definitions: a dotted name that loads a library, such
    as ``ctypes.cdll.x``, or a module that is a program (``unittest.__main__`` runs the tests in the working folder).
    """
    if not _LOADERS.isdisjoint(name.name.split(".")[:-1]):
        return True
    return name.module.endswith(".__main__")


_METHODS_OF = ("numpy.random._pickle.__generator_ctor", "numpy.random._pickle.__randomstate_ctor", "random.Random")
"""Objects whose methods may be pickled: ``random.choice`` is a method."""


def _gives_attribute(args: Args) -> bool:
    """Whether ``getattr`` returns an attribute of a class, which is how Python 3.11 pickles an enum member, or a
    pickled method: of a torch module, of a random generator, or of an object of an unknown class.
    """
    if len(args) != 2 or type(args[1]) is not str:
        return False
    if isinstance(args[0], UnbuiltObject):
        name = named(args[0].name)
        has_methods = args[0].name in _METHODS_OF or f"{name}.".startswith("torch.nn.modules.")
        others = args[0].how == "object" and not (is_of_library(name) or is_of_torch(name))
        return (has_methods or others) and args[0].how != "called" and not is_dunder(args[1])
    if not isinstance(args[0], Global):
        return False
    attribute = Global(args[0].module, f"{args[0].name}.{args[1]}")
    return not runs_when_named(attribute) and not could_run(attribute)


def _is_range(value: Value) -> bool:
    return isinstance(value, UnbuiltObject) and (value.name, value.how) == ("builtins.range", "constructed")


def is_harmless(name: Global, args: Args) -> bool:
    """Whether a call only makes a plain value."""
    if name == Global("builtins", "getattr"):
        return _gives_attribute(args)
    if name == Global("builtins", "type"):  # type(None), type(...); with three arguments it would create a class
        return len(args) == 1 and (args[0] is None or args[0] == Global("builtins", "Ellipsis"))
    if str(name) == ITER:  # with two arguments it would call the first
        return len(args) == 1 and (type(args[0]) in _ITERATED or _is_range(args[0]))
    if str(name) in _ENUMS:
        return "." not in name.name and len(args) == 1 and type(args[0]) in (int, str)
    if name in _SUBSCRIPTS:
        return len(args) == 2 and isinstance(args[0], Global) and _is_generic(args[0]) and _names_types(args[1])
    if name.module == "builtins" and name.name.endswith(("Error", "Exception", "Warning")):
        return "." not in name.name and not holds_classes_or_objects(args)
    if str(name) == "zoneinfo.ZoneInfo._unpickle":
        return not holds_classes_or_objects(args)
    if makes_its_own(name, args):
        return True
    # datetime.datetime is not a dotted name of `datetime`
    return str(name) in _HARMLESS and "." not in name.name and _takes(name, args)
