"""What a GGUF says of its model: the entries of its architecture, each checked as it is read, and its tensors."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

from ckptconv.edits.dialects.gguf_table import EMBEDDINGS, OUTPUT
from ckptconv.errors import CorruptFileError
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY
from ckptconv.formats.gguf.hub.config import MAX_LAYERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor

TOKENIZER = "tokenizer."
WEIGHTS_ALONE = "name a file as DST, such as model.safetensors: it gets the weights alone"
"""The hint where no configuration can be made."""
_MOST = 1 << 31


class Said:
    """The metadata and tensors of a GGUF. `used` collects the keys that were read.

    arch: ``general.architecture``, with which keys begin; one that begins with ``tokenizer.`` is taken as it is.
    idle: entries that say the same in another way than to-gguf does, and are not compared with its.
    known: what no file of this architecture says, and is known of all models that have it.
    """

    def __init__(self, metadata: Mapping[object, object], tensors: Mapping[str, LazyTensor]) -> None:
        self.metadata, self.tensors = metadata, tensors
        self.arch = str(metadata.get(ARCHITECTURE_KEY))
        self.used: set[str] = {ARCHITECTURE_KEY}
        self.idle: set[str] = set()
        self.known: list[str] = []

    def key(self, name: str) -> str:
        return name if name.startswith(TOKENIZER) else f"{self.arch}.{name}"

    def get(self, name: str) -> Any:
        """The value of an entry: a float as the shortest number that is the same float32, a list of equal items as one
        of them. None if there is no such entry.
        """
        key = self.key(name)
        self.used.add(key)
        return plain(self.metadata.get(key))

    def implied(self, *names: str) -> None:
        """Count entries as read that follow from what else the configuration says."""
        self.used.update(map(self.key, names))

    def whole(self, name: str, default: int | None = None) -> int:
        """A number from 0 to 2³¹. Raises CorruptFileError."""
        value = self.get(name)
        value = default if value is None else value
        if value is None:
            raise bad(f"it does not say {self.key(name)}")
        if type(value) is not int or not 0 <= value < _MOST:
            raise bad(f"{self.key(name)} is {str(value)[:40]!r}, and no whole number")
        return value

    def positive(self, name: str, default: int | None = None) -> int:
        """A number from 1 on. Raises CorruptFileError."""
        value = self.whole(name, default)
        if not value:
            raise bad(f"{self.key(name)} is 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number. Raises CorruptFileError."""
        value = self.get(name)
        value = default if value is None else value
        if value is None:
            raise bad(f"it does not say {self.key(name)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise bad(f"{self.key(name)} is {str(value)[:40]!r}, and no number")
        return float(value)

    @property
    def layers(self) -> int:
        count = self.positive("block_count")
        if count > MAX_LAYERS:
            raise bad(f"{self.key('block_count')} is {count:,}")
        return count

    @property
    def width(self) -> int:
        return self.positive("embedding_length")

    @property
    def heads(self) -> int:
        return self.positive("attention.head_count")

    @property
    def head_width(self) -> int:
        """The width of one head of q and k."""
        return self.positive("attention.key_length", max(1, self.width // self.heads))

    def by_layer(self, name: str) -> list[Any]:
        """An entry that has an item for each layer. Raises CorruptFileError."""
        value = self.metadata.get(self.key(name))
        self.used.add(self.key(name))
        if not isinstance(value, list) or len(value) != self.layers:
            raise bad(f"{self.key(name)} has no item for each of {self.layers} layers")
        return value

    def items(self, name: str) -> Any:
        """A list, or bytes, of any length; empty if there is none. Raises CorruptFileError for anything else."""
        value = self.metadata.get(self.key(name))
        self.used.add(self.key(name))
        if value is not None and not isinstance(value, list | bytes):
            raise bad(f"{self.key(name)} is no list")
        return value or []

    def has_part(self, part: str) -> bool:
        """Whether a layer has this part, such as ``attn_q.bias``, or the model outside of layers."""
        return part in self.tensors or any(
            name.endswith(f".{part}") and name.split(".", 2)[-1] == part for name in self.tensors
        )

    def layers_with(self, part: str) -> set[int]:
        """The numbers of the layers that have this part."""
        return {layer for layer in range(self.layers) if f"blk.{layer}.{part}" in self.tensors}

    @property
    def rows(self) -> int:
        """The number of rows of the embeddings. Raises CorruptFileError."""
        return self.rows_of(EMBEDDINGS)

    def rows_of(self, name: str) -> int:
        """The number of rows of a matrix. Raises CorruptFileError if there is none of this name."""
        matrix = self.tensors.get(name)
        if matrix is None or len(matrix.info.shape) != 2:
            raise bad(f"there is no matrix {name}")
        return matrix.info.shape[0]

    @property
    def is_tied(self) -> bool:
        """Whether the output matrix is the embeddings."""
        return OUTPUT not in self.tensors


def bad(what: str) -> CorruptFileError:
    """The error for metadata that makes no model."""
    return CorruptFileError(what, hint="download the file again")


def is_text(text: str) -> bool:
    """Whether a text has UTF-8; one that was read of other bytes has surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(value: Any) -> Any:
    """See `Said.get`."""
    if isinstance(value, list) and value and all(type(item) is int and item == value[0] for item in value):
        return value[0]
    return shortest(value) if isinstance(value, float) else value


def shortest(value: float) -> float:
    """The number with the fewest digits that is the same float32."""
    if not math.isfinite(value):
        return value
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if single(short) == single(value):
            return short
    return value


def single(value: float) -> float:
    """The float32 nearest to a number; infinity if it is too large."""
    try:
        return array("f", [value])[0]
    except OverflowError:
        return math.copysign(math.inf, value)
