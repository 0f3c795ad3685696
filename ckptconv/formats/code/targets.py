"""Names of functions and classes that lead to Python's own library, or to what can run anything.

Configurations name what is to be called: ``_target_: torch.optim.Adam``. A project names classes of its own, of which
nothing is known here; those of Python's library are there wherever a model is loaded, and hardly any model is made of
one, but for what is data.
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
"""Modules of Python's library that a configuration may take something of."""

_NOT_PLAIN = sys.stdlib_module_names - _PLAIN

_ASKING = re.compile(
    r"os\.(cpu_count|getcwd)|os\.path\.(abspath|basename|commonpath|dirname|exists|expanduser|isabs|isdir|isfile|join"
    r"|normpath|realpath|relpath|split|splitext)"
    r"|copy\.(copy|deepcopy)|itertools\.(chain|count|cycle|product|repeat)|time\.(strftime|time)"
    r"|logging\.getLogger|multiprocessing\.cpu_count"
)
"""Functions of modules that are not plain, which put texts together or ask for something, as configurations do."""

_RUNNING = re.compile(
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

_HYDRAS = ("_target_", "__target__", "class_path")
_KEYS = frozenset([*_HYDRAS, "target"])


def runs_anything(name: str) -> bool:
    """Whether a name leads to what runs, loads or writes whatever it is told."""
    return _RUNNING.fullmatch(name) is not None and not _ASKING.fullmatch(name)


def is_librarys(name: str) -> bool:
    """Whether a name leads to Python's own library, but for what is data, or to what can run anything."""
    first, *modules = name.split(".")[:-1] or [""]
    leads_there = first in _NOT_PLAIN or not _NOT_PLAIN.isdisjoint(modules)
    return runs_anything(name) or (leads_there and not _ASKING.fullmatch(name))


def targets_of(node: Mapping[str, MetaNode]) -> Iterator[tuple[tuple[str, ...], Opaque, str]]:
    """What an object in a configuration says is to be called, and leads there: its key, what is called, by whom."""
    if _KEYS.isdisjoint(node):
        return
    for key in _HYDRAS:
        name = node.get(key)
        if isinstance(name, str) and is_librarys(name):
            yield (key,), Opaque(name, "called"), "Lightning" if key == "class_path" else "Hydra"
    name = node.get("target")
    if isinstance(name, str) and runs_anything(name):
        yield ("target",), Opaque(name, "called"), "who instantiates it"
