"""Reads .npz files: the inputs of a network, or the recording of its outputs (`checks.recording`)."""

from __future__ import annotations

from os import fspath
from typing import TYPE_CHECKING, Literal

from ckptconv.api.open import open
from ckptconv.checks.recording import recording_of
from ckptconv.core.metadata import NumpyArray, NumpyScalar
from ckptconv.errors import CorruptFileError, DamagedTensorError, FileAccessError, UnsupportedError
from ckptconv.io.checksum import is_damaged

if TYPE_CHECKING:
    from ckptconv.api.open import PathText
    from ckptconv.checks.recording import Recording
    from ckptconv.core.arrays import Arrays


def read_arrays(path: PathText) -> tuple[Arrays, dict[str, str]]:
    """The arrays in an .npz, arrays of strings last, and its single strings.

    Nothing pickled is read. Types that numpy lacks (BF16) become float32. Raises as `open` does, and
    DamagedTensorError.
    """
    import numpy as np

    arrays: Arrays = {}
    with open(path, format="npz") as file:
        for name, tensor in file.items():
            if any(is_damaged(span) for span in tensor.depends):
                raise DamagedTensorError(name, path=path)
            array = np.array(tensor.numpy())
            arrays[name] = array.astype(np.float32) if array.dtype.kind == "V" else array
        texts = {}
        for key, value in file.metadata.items():
            if isinstance(value, NumpyScalar):
                texts[str(key)] = str(np.ndarray((), value.dtype, value.data))
            elif isinstance(value, NumpyArray):
                order: Literal["C", "F"] = "F" if value.fortran else "C"
                arrays[str(key)] = np.ndarray(value.shape, value.dtype, value.data, order=order).copy()
    return arrays, texts


def read_recording(path: PathText) -> Recording:
    """Read what `save_outputs` wrote. Raises FileAccessError, CorruptFileError, UnsupportedError for a newer
    version.
    """
    hint = f"such a file is written by: ckptconv verify A --save-outputs {fspath(path)}"
    try:
        arrays, texts = read_arrays(path)
    except FileAccessError as error:
        raise FileAccessError(error.message, path=path, hint=hint) from error
    except (CorruptFileError, UnsupportedError) as error:
        raise CorruptFileError(f"these are not saved outputs: {error.message}", path=path, hint=hint) from error
    try:
        return recording_of(texts["about"], arrays)
    except UnsupportedError as error:
        raise error.at(path) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        reason = f": {error}" if isinstance(error, ValueError) else ""  # other messages are Python's, not ours
        raise CorruptFileError(f"these are not saved outputs{reason}", path=path, hint=hint) from error
