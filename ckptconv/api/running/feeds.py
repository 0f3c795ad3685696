"""The inputs of a network: which ones it takes, and arrays for them, random or from a file."""

from __future__ import annotations

from dataclasses import replace
from os import fspath
from typing import TYPE_CHECKING

from ckptconv.api.running.arrays import read_arrays
from ckptconv.arch.samples import InputSpec, how_described, narrowest, parse_input, shown_inputs
from ckptconv.core.arrays import numpy_dtype
from ckptconv.core.dtypes import DType
from ckptconv.errors import CorruptFileError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import torch

    from ckptconv.api.open import PathText
    from ckptconv.api.running.side import Side
    from ckptconv.arch.recipe.program import Program
    from ckptconv.core.arrays import Array, Arrays

FREE_SIZES = {3: 16, 4: 64}
"""The length of free dimensions after the first, by the input's rank: 3 for sequences, 4 for images; else it is 8."""


def batches_for(sides: Sequence[Side], arrays: PathText | None, samples: int, seed: int) -> list[Arrays]:
    """The batches that all sides run on: the arrays of a file, or random ones.

    Raises UsageError, LimitError, FileAccessError.
    """
    specs = [parse_input(text) for text in sides[0].request.inputs]
    if arrays is not None:
        named_by = next((side for side in sides if side.is_graph), sides[0])
        return [_load_batch(arrays, [spec.name for spec in specs or named_by.inputs])]
    return list(_random_batches(specs or inputs_of(sides), samples, seed))


def recipe_input(program: Program, module: torch.nn.Module) -> InputSpec:
    """The input of a recipe's module."""
    dims = tuple(f"dim_{i}" if dim is None else dim for i, dim in enumerate(program.input.shape))
    dtype = DType.F32 if program.input.dtype is None else DType.I64
    shown = shown_inputs(module)
    return InputSpec("", dtype, dims, shown[0].limit if shown and program.input.dtype else 0)


def inputs_of(sides: Sequence[Side]) -> list[InputSpec]:
    """The inputs of all sides: as a graph names them, with the limits of integers that a module knows.

    Raises UsageError if nothing says what they are.
    """
    graphs = [side for side in sides if side.is_graph]
    modules = [side for side in sides if not side.is_graph]
    specs = narrowest([side.inputs for side in graphs or modules[:1]])
    if not specs:
        module = getattr(modules[0].runner, "module", None) if modules else None
        raise UsageError("nothing says what goes in", hint=how_described(module))
    if any(spec.dtype.kind == "int" for spec in specs):
        limits = [spec.limit for side in modules for spec in side.inputs if spec.limit]
        if limits:
            specs = [replace(spec, limit=min(limits)) if spec.dtype.kind == "int" else spec for spec in specs]
    unknown = [spec for spec in specs if spec.dtype.kind == "int" and not spec.limit]
    if unknown:
        raise UsageError(
            f"nothing says which integers {unknown[0].name!r} takes",
            hint=f"{unknown[0].option(unknown[0].name)}, or --inputs FILE.npz",
        )
    return specs


def _random_batches(specs: Sequence[InputSpec], samples: int, seed: int) -> Iterator[Arrays]:
    """Batches of 1, 3 and `samples` rows; a single one if the first dimension is fixed."""
    import numpy as np

    if samples < 1:
        raise UsageError(f"{samples} samples are none", hint="--samples 32")
    rng = np.random.default_rng(seed)
    free = any(spec.dims and isinstance(spec.dims[0], str) for spec in specs)
    for batch in dict.fromkeys((1, 3, samples)) if free else (1,):
        sizes: dict[str, int] = {}
        feeds: Arrays = {}
        for position, spec in enumerate(specs):
            shape = [_dimension(spec, axis, batch, sizes) for axis in range(len(spec.dims))]
            feeds[spec.name or f"input_{position}"] = _random_array(spec, shape, rng)
        yield feeds


def _dimension(spec: InputSpec, axis: int, batch: int, sizes: dict[str, int]) -> int:
    """The length of a dimension: the batch's for the first; other free ones of the same name are equal."""
    dim = spec.dims[axis]
    if isinstance(dim, int):
        return dim
    return batch if axis == 0 else sizes.setdefault(dim, FREE_SIZES.get(len(spec.dims), 8))


def _random_array(spec: InputSpec, shape: Sequence[int], rng: np.random.Generator) -> Array:
    dtype = numpy_dtype(spec.dtype)
    if spec.dtype.kind == "float":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, spec.limit or 2, shape).astype(dtype)


def _load_batch(path: PathText, names: Sequence[str]) -> Arrays:
    """The arrays of an .npz in the order of the inputs' names; in their own order if they have other names."""
    try:
        arrays, _ = read_arrays(path)
    except (CorruptFileError, UnsupportedError) as error:
        raise UsageError(
            f"{fspath(path)} is not an .npz of arrays: {error.message}", hint="numpy.savez(FILE, x=array)"
        ) from error
    if words := [name for name, array in arrays.items() if array.dtype.kind == "U"]:
        raise UsageError(f"{words[0]!r} in {fspath(path)} is text", hint="networks are run on numbers: leave it out")
    if set(arrays) == set(names):
        return {name: arrays[name] for name in names}
    if len(arrays) != len(names):
        wanted = ", ".join(f"{name or 'x'}=array" for name in names)
        raise UsageError(
            f"{fspath(path)} holds {len(arrays)} arrays for {len(names)} inputs", hint=f"numpy.savez(FILE, {wanted})"
        )
    return arrays
