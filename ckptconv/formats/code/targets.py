"""Names of functions and classes that lead to Python's standard library, or to what can run anything.

A configuration names what to call: ``_target_: torch.optim.Adam``. A project's own classes are unknown here. The
standard library is there wherever a model is loaded, and hardly any model is made of its classes, except those for
plain data; so other names in it are suspect.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PLAIN = frozenset([
    "argparse", "builtins", "collections", "dataclasses", "datetime", "enum", "functools", "math", "operator",
    "pathlib", "random", "re",
])  # fmt: skip
"""Modules of the standard library that a configuration may use."""

_NOT_PLAIN = sys.stdlib_module_names - _PLAIN

_HARMLESS = re.compile(
    r"os\.(cpu_count|getcwd)|os\.path\.(abspath|basename|commonpath|dirname|exists|expanduser|isabs|isdir|isfile|join"
    r"|normpath|realpath|relpath|split|splitext)"
    r"|copy\.(copy|deepcopy)|itertools\.(chain|count|cycle|product|repeat)|time\.(strftime|time)"
    r"|logging\.getLogger|multiprocessing\.cpu_count"
)
"""Functions in other modules that ordinary configurations use: they build strings or look something up."""

_RUNS_ANYTHING = re.compile(
    r"(builtins|__builtin__)\.(?!(abs|bool|bytes|complex|dict|float|frozenset|int|len|list|max|min|object|range|set|slice"
    r"|str|tuple)$).*"
    r"|torch\.(hub|load|jit|package|serialization|utils\.(benchmark|bottleneck|cpp_extension|model_zoo|_cpp\w*)"
    r"|multiprocessing|distributed\.(elastic|run|launch|launcher|rpc))\b.*"
    r"|(numpy|np)\.(load\w*|fromfile|save\w*|memmap|f2py\b.*|lib\.(_?npyio\w*|format)\.\w+|ctypeslib\.\w+|testing\b.*"
    r"|distutils\b.*)"
    r"|(joblib|dill|cloudpickle|pandas)\.(.*\.)?(load|loads|read_pickle|eval)\w*"
    r"|(asyncio|bdb|cProfile|code|compileall|ctypes|distutils|doctest|ensurepip|ftplib|imp|importlib|marshal"
    r"|multiprocessing|nt|os|pdb|pickle|pip|pkgutil|platform|posix|profile|pty|py_compile|runpy|shelve|shutil|site|smtplib"
    r"|socket|subprocess|sys|tempfile|threading|timeit|trace|urllib|venv|webbrowser|zipapp)\.(?!py$)\w.*"
    r"|(logging\.config|test\.support|_posixsubprocess|_thread|_pickle)\.\w.*"
)

_IMPORT_KEYS = ("_target_", "__target__", "class_path")
_KEYS = frozenset([*_IMPORT_KEYS, "target"])


def runs_anything(name: str) -> bool:
    """Whether a name leads to a function that runs, loads or writes whatever it is given."""
    return _RUNS_ANYTHING.fullmatch(name) is not None and not _HARMLESS.fullmatch(name)


def is_suspect(name: str) -> bool:
    """Whether a name leads to what can run anything, or to the standard library other than to its plain data types."""
    first, *modules = name.split(".")[:-1] or [""]
    leads_there = first in _NOT_PLAIN or not _NOT_PLAIN.isdisjoint(modules)
    return runs_anything(name) or (leads_there and not _HARMLESS.fullmatch(name))


def targets_of(node: Mapping[str, MetaNode]) -> Iterator[tuple[tuple[str, ...], Opaque, str]]:
    """The suspect names that an object in a configuration tells a library to call: (key, what is called, by whom)."""
    if _KEYS.isdisjoint(node):
        return
    for key in _IMPORT_KEYS:
        name = node.get(key)
        if isinstance(name, str) and is_suspect(name):
            yield (key,), Opaque(name, "called"), "Lightning" if key == "class_path" else "Hydra"
    name = node.get("target")
    if isinstance(name, str) and runs_anything(name):
        yield ("target",), Opaque(name, "called"), "who instantiates it"
