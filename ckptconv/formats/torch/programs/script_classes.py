"""Which attributes of a TorchScript module are parameters and buffers, by its class in ``code/``, which is read as
text.

    class Linear(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = []
      weight : Tensor
      bias : Tensor
      __annotations__["0"] = …

The class ``__torch__.a.b.Name`` is in ``code/__torch__/a/b.py``. Modules derive from `Module`; parameters and buffers
are listed by name, and every attribute is declared with its type. No code is run or compiled: these lines are matched,
all others are skipped. Archives from old releases have no list of buffers.

torch.jit.load runs only one part of the code: the ``__setstate__`` of classes that have one, such as quantized modules,
and what it calls. The language can do nothing but call operators; but ``torch.save`` and ``torch.from_file`` are among
these, and programs can register others (``ops.image.write_file``).

Source: torch/csrc/jit/serialization/python_print.cpp (`printNamedType`), import_source.cpp (`importClass`), import.cpp
(`obj_loader`), api/module.h (`ParameterPolicy`, `BufferPolicy`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.errors import LimitError
from ckptconv.io.limits import MAX_PICKLE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.io.zip import ZipArchive

MAX_CODE_BYTES = MAX_PICKLE_BYTES >> 4
"""Bytes of a code file; those of the largest models have a few megabytes."""

_RUN_BY_LOADING = re.compile(r"\bdef\s+__setstate__\b")
_OUTSIDE = re.compile(
    r"\b(?:save|from_file|getattr|rpc|"
    r"ops\b(?!\.(?:mkldnn_prepacked|prepacked|quantized|sparse|xnnpack)\.)|"
    r"classes\b(?!\.(?:mkldnn|quantized|sparse|xnnpack)\.))\b"
)
"""What has, or may have, effects outside the language: files, operators and classes of other programs."""

_MOBILE_OUTSIDE = (b"aten::save", b"aten::from_file")
"""The same in ``bytecode.pkl``, which PyTorch Mobile runs instead."""

_CLASS = re.compile(r"^class (\w+)(?:\((\w*)\))?:$")
_LIST = re.compile(r'^  (__parameters__|__buffers__) = \[((?:"[^"]*", ?)*)\]$')
_DECLARED = re.compile(r'^  (?:(\w+) : |__annotations__\["([^"]*)"\] = )(.+)$')


@dataclass(slots=True)
class ScriptClass:
    """A class in the archive's code. `buffers` is None if it has no list of them. `declared` has the types."""

    is_module: bool
    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] | None = None
    declared: dict[str, str] = field(default_factory=dict)

    def is_buffer(self, name: str) -> bool:
        """Whether ``state_dict()`` has the attribute as a buffer: it must be declared as a Tensor, not as an optional
        one.
        """
        if self.declared.get(name) != "Tensor":
            return False
        return name not in self.parameters if self.buffers is None else name in self.buffers


@dataclass(slots=True)
class ScriptClasses:
    """The classes of an archive, by name. A code file is read when one of its classes is first looked up."""

    archive: ZipArchive
    root: str
    _files: dict[str, dict[str, ScriptClass]] = field(default_factory=dict)

    def find(self, name: str) -> ScriptClass | None:
        """The class with this qualified name; None if the code has none. Raises CorruptFileError, LimitError."""
        module, _, short = name.rpartition(".")
        path = f"{self.root}code/{module.replace('.', '/')}.py"
        if path not in self._files:
            there = path in self.archive.entries
            text = self.archive.read(path, MAX_CODE_BYTES).decode("utf-8", "replace") if there else ""
            self._files[path] = dict(_classes(text))
        return self._files[path].get(short)

    def reached_by_loading(self) -> str | None:
        """What the code would use outside the language, if loading runs a part of it; None if it does neither.

        Reads all of the code. Raises CorruptFileError, LimitError.
        """
        names = [name for name in self.archive.entries if name.startswith(f"{self.root}code/") and name.endswith(".py")]
        if sum(self.archive.entries[name].size for name in names) > MAX_CODE_BYTES:
            raise LimitError(f"the archive has more than {MAX_CODE_BYTES:,} bytes of code", hint="do not trust it")
        texts = [self.archive.read(name, MAX_CODE_BYTES).decode("utf-8", "replace") for name in names]
        mobile = f"{self.root}bytecode.pkl"
        code = self.archive.read(mobile, MAX_PICKLE_BYTES) if mobile in self.archive.entries else b""
        if b"__setstate__" not in code and not any(map(_RUN_BY_LOADING.search, texts)):
            return None
        texts += [name.decode() for name in _MOBILE_OUTSIDE if name in code]
        return next((found[0] for found in map(_OUTSIDE.search, texts) if found), None)


def _classes(text: str) -> Iterator[tuple[str, ScriptClass]]:
    """The top-level classes of a code file, by name."""
    current: ScriptClass | None = None
    for line in text.split("\n"):
        if line[:1] not in (" ", ""):
            heading = _CLASS.match(line)
            current = None
            if heading:
                current = ScriptClass(heading[2] == "Module")
                yield heading[1], current
        elif current is not None and current.is_module:
            _note(current, line)


def _note(current: ScriptClass, line: str) -> None:
    if listed := _LIST.match(line):
        names = frozenset(re.findall(r'"([^"]*)"', listed[2]))
        if listed[1] == "__parameters__":
            current.parameters = names
        else:
            current.buffers = names
    elif declared := _DECLARED.match(line):
        current.declared.setdefault(declared[1] or declared[2], declared[3].strip())
