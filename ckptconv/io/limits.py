"""Upper bounds that numbers from files are checked against before use. Each is far beyond what honest files need."""

from __future__ import annotations

from typing import TypeGuard

from ckptconv.core.collisions import MAX_COLLISIONS as MAX_COLLISIONS
from ckptconv.core.metadata import MAX_DEPTH as MAX_DEPTH
from ckptconv.core.names import MAX_NAMES as MAX_NAMES

MAX_PICKLE_BYTES = 1 << 30
"""The size of a ``data.pkl``; one with 1,000,000 tensors takes 0.2 GB."""

MAX_INFLATED_RECORD = 1 << 26
"""The size of a compressed ``data.pkl``, inflated. torch never compresses it; 0.5 MiB of deflate can give 0.5 GiB."""

MAX_NAME = 4096
"""The length of a module's and a class's name in a pickle; torch's longest has 90 characters."""

MAX_INFLATED_RATIO = 1032
"""The highest ratio that deflate can reach (zlib's documentation): a member that claims more is lying."""

MAX_TENSORS = 1_000_000

MAX_NODES = 5_000_000
"""The nodes of a metadata tree with shared parts counted each time (a billion-laughs pickle has 10^9)."""

FREE_NODES = 100_000
NODES_A_BYTE = 4
"""How many nodes a byte of pickle may give, beyond the free ones. A value takes at least a byte; only shared parts can
give more.
"""

MAX_RANK = 64
"""The dimensions of a tensor, as in torch."""

MAX_DIM = (1 << 63) - 1
"""A size, a stride, or an offset in a file: the largest signed 64-bit number, as in torch."""

MAX_ZIP_ENTRIES = 4_000_000

MAX_FILES = 100_000
"""The files of a checkpoint that is a folder or an archive."""

MAX_ARCHIVE_RATIO = 100
FREE_ARCHIVE_BYTES = 1 << 28
"""How many bytes a member of an archive, or a gzip file, may inflate to: for each byte of the archive, or in any case.
Compression makes weights a tenth smaller, and rarely by half.
"""

MAX_LZMA_MEMORY = 1 << 28
"""The size of the window of xz or LZMA; xz -9 takes a quarter of that."""

MAX_BUILDS = 250_000
"""The objects with a state in a joblib file; a forest of 10,000 trees has 100,000."""

MAX_DOCUMENT = 1 << 20
MAX_DOCUMENTS = 64 << 20
"""The bytes of a text in an archive that counts as metadata, and of all of them. Configurations have some kilobytes."""

MAX_INT_DIGITS = 4300
"""The decimal digits of an int: Python's own limit, since parsing is quadratic."""

MAX_SAFETENSORS_HEADER = 100_000_000
"""The bytes of a safetensors header: the reference reader's own limit."""

MAX_INDEX_BYTES = 100_000_000
"""The bytes of the index of a sharded set, which names as many tensors as a safetensors header can."""

MAX_CONFIG = 16 << 20
"""The bytes of a config.json; real ones have some kilobytes."""

MAX_CONFIG_VALUES = 1 << 20
"""The values in a JSON document that is inspected for what it would run; a vocabulary has a quarter of that."""

MAX_SCHEMA = 64 << 20
MAX_SCHEMA_VALUES = 1 << 22
"""The bytes of a skops schema, and its values in JSON. A plain value takes six of these, an entry of a dict twelve."""

MAX_PARSED_RATIO = 32
FREE_PARSED_BYTES = 4 << 20
"""How many bytes of opcodes and configurations may be parsed from compressed data: for each compressed byte, or in any
case. Deflate makes a pickle of tensors five times smaller, a trainer's log fifteen times.
"""

MAX_TOKENIZER = 64 << 20
"""The bytes of a tokenizer's file; the largest vocabularies take 35 MB in JSON."""

MAX_GGUF_HEADER = 1 << 28
"""The bytes of a GGUF's metadata and tensor names; the largest vocabularies take 10 MB."""

MAX_NPY_HEADER = 10_000
"""The bytes of a .npy header: numpy's own limit for untrusted files (``numpy.lib.format``)."""

MAX_NPZ_TEXT = 64 << 20
"""The bytes of an archive's string arrays, all of which are read when it is opened."""

MAX_HDF5_METADATA = 1 << 30
"""The bytes that are read of an HDF5 file's own structures; 1,000,000 datasets take a kilobyte each."""

FREE_HDF5_BYTES = 16 << 20
"""How many bytes of metadata, and of datasets, even a small HDF5 file may have beyond what its size justifies."""

MAX_HDF5_TEXT = 64 << 20
"""The bytes of an HDF5 file's attributes and strings, all of which are read when it is opened."""

MAX_HDF5_PATH = 4096
"""The length of a dataset's path; the longest of Keras have some 200 characters."""

MAX_HDF5_CHUNKS = 1 << 22
FREE_HDF5_CHUNKS = 1 << 16
"""The chunks of a dataset: at most the first number, and beyond the second no more than the file can address."""

MAX_HDF5_CHUNK = 1 << 27
"""The bytes of a chunk that has to be inflated as a whole; h5py makes chunks of at most a mebibyte."""

MAX_MSGPACK_TEXT = 1 << 28
"""The bytes of keys, strings and byte strings in a msgpack file, all of which are read when it is opened."""

MAX_OCDBT_NODES = 1 << 30
"""The bytes of an OCDBT store's nodes, inflated; 1,000,000 arrays take half a kilobyte each."""

MAX_OCDBT_RATIO = 300
FREE_OCDBT_BYTES = 64 << 20
"""How many bytes an OCDBT store's nodes may inflate to: for each compressed byte, and in addition. The documents of
arrays are very similar: as TensorStore writes them, those of 30,000 arrays of one shape, with values elsewhere, inflate
to at most 250 times their size; with 30,000 values of zeros among them, to 3,000 times, which is 12 MB.
"""

MAX_OCDBT_TEXT_RATIO = 300
FREE_OCDBT_TEXT = 16 << 20
"""How many bytes the keys and paths of an OCDBT store may have, each of which is stored without what it shares with the
one before: for each byte of the nodes, and in addition. TensorStore stores 80,000 keys of 76 bytes in 51.
"""

MAX_OCDBT_KEYS = 4_000_000
FREE_OCDBT_KEYS = 250_000
"""The keys of an OCDBT store, two for each array and more for an array in several chunks: at most the first number, and
beyond the second no more than its nodes have bytes.
"""

MAX_ZSTD_WINDOW = 1 << 27
"""The size of a zstd window: zstd's own limit, which its highest level needs."""

MAX_ZSTD_RATIO = 1 << 15
"""The highest ratio that zstd can reach: a block of 128 KiB in four bytes."""

FREE_ZARR_BYTES = 16 << 20
"""How many bytes of unwritten elements even a small checkpoint may have beyond what its size justifies."""

MAX_ZARR_CHUNKS = 1 << 22
"""The chunks of an array."""

MAX_ZARR_WHOLE = 1 << 27
"""The bytes of a chunk that is read as a whole, since its elements are not in C order."""

MAX_ORBAX_TEXT = MAX_INDEX_BYTES
"""The bytes of a document of Orbax, such as the list of a tree's entries."""

MAX_FLATBUFFER_TEXT = 1 << 16
"""The bytes of a name in a FlatBuffer. TensorFlow Lite's converter joins those of fused tensors, to some thousand."""

FREE_FLATBUFFER_BYTES = 1 << 20
"""How many bytes of a FlatBuffer may be read beyond twice its size, since tables may share other tables."""

MAX_TFLITE_TEXT = 64 << 20
"""The bytes of a TensorFlow Lite model's string tensors and metadata entries, which are read when it is opened."""

MAX_OPENVINO_XML = 1 << 29
MAX_OPENVINO_MARKUP = 16 << 20
"""The bytes of an OpenVINO model's document, and of one piece of markup in it. Large models have some 10 MB."""

MAX_OPENVINO_TEXT = 64 << 20
"""The bytes of an OpenVINO model's string constants, which are read when it is opened."""

MAX_SHARED_RATIO = 8
FREE_SHARED_BYTES = 16 << 20
"""How many bytes untied tensors may have: for each byte of their files, and in addition. Equal tensors with other
shapes may be stored once.
"""

MAX_STORED_BYTES = MAX_PICKLE_BYTES
"""The bytes of metadata that are kept beside a header; all of it came from one pickle."""


def is_size(value: object) -> TypeGuard[int]:
    """Whether a value from a file may be a size, a stride or an offset: an int from 0 to MAX_DIM, and not a bool."""
    return type(value) is int and 0 <= value <= MAX_DIM
