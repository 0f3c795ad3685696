"""Bounds that every number from a file meets before it is used. Each is far past what an honest checkpoint needs."""

from __future__ import annotations

from typing import TypeGuard

from ckptconv.core.collisions import MAX_COLLISIONS as MAX_COLLISIONS
from ckptconv.core.metadata import MAX_DEPTH as MAX_DEPTH
from ckptconv.core.names import MAX_NAMES as MAX_NAMES

MAX_PICKLE_BYTES = 1 << 30
"""One ``data.pkl``: a checkpoint of 1,000,000 tensors takes 0.2 GB."""

MAX_INFLATED_RECORD = 1 << 26
"""One ``data.pkl`` that is compressed: torch never compresses it, and 0.5 MiB of deflate can claim 0.5 GiB."""

MAX_NAME = 4096
"""Characters of a module's and a class's name in a pickle; torch's longest has 90."""

MAX_INFLATED_RATIO = 1032
"""What deflate can reach at most (zlib's documentation): a member that claims more is lying."""

MAX_TENSORS = 1_000_000

MAX_NODES = 5_000_000
"""Nodes of a metadata tree once shared parts are written out (a billion-laughs pickle has 10^9 of them)."""

FREE_NODES = 100_000
NODES_A_BYTE = 4
"""A value takes a byte of pickle and more; only what is shared and written out again can outgrow that."""

MAX_RANK = 64
"""Dimensions of a tensor, as in torch."""

MAX_DIM = (1 << 63) - 1
"""A size, a stride, or a place in a file: what a signed number of 64 bits holds, as in torch."""

MAX_ZIP_ENTRIES = 4_000_000

MAX_FILES = 100_000
"""Files of a checkpoint that is a folder, or an archive."""

MAX_ARCHIVE_RATIO = 100
FREE_ARCHIVE_BYTES = 1 << 28
"""What a member of an archive, or a gzip file, may inflate to for each byte of the archive, and in any case: weights
become a tenth smaller, and rarely a half.
"""

MAX_LZMA_MEMORY = 1 << 28
"""What a window of xz or LZMA may take: xz -9 asks for a quarter of that."""

MAX_BUILDS = 250_000
"""Objects with a state in a joblib file: a forest of 10,000 trees has 100,000."""

MAX_DOCUMENT = 1 << 20
MAX_DOCUMENTS = 64 << 20
"""Bytes of a text in an archive that counts as metadata, and of all of them; configurations have some kilobytes."""

MAX_INT_DIGITS = 4300
"""Decimal digits of an int, Python's own limit: parsing is quadratic."""

MAX_SAFETENSORS_HEADER = 100_000_000
"""The reference reader's own cap."""

MAX_INDEX_BYTES = 100_000_000
"""The index of a sharded set, which names as many tensors as a safetensors header can."""

MAX_CONFIG = 16 << 20
"""Bytes of a config.json that is read; real ones have some kilobytes."""

MAX_CONFIG_VALUES = 1 << 20
"""Values of a JSON document that is looked at for what it would run; a vocabulary has a quarter of that."""

MAX_SCHEMA = 64 << 20
MAX_SCHEMA_VALUES = 1 << 22
"""Bytes of a schema of skops', and its values in JSON; six are a value of the object's, twelve an entry of a dict."""

MAX_PARSED_RATIO = 32
FREE_PARSED_BYTES = 4 << 20
"""Bytes of opcodes and of configurations in what is compressed that are made values of: so many for each byte that is
there, and in any case. Of a pickle of tensors deflate makes a fifth, of a trainer's log a fifteenth.
"""

MAX_TOKENIZER = 64 << 20
"""Bytes of a tokenizer's file; the largest vocabularies take 35 MB in JSON."""

MAX_GGUF_HEADER = 1 << 28
"""Metadata and tensor names of a GGUF: the largest vocabularies take 10 MB."""

MAX_NPY_HEADER = 10_000
"""numpy's own limit for files that are not trusted (``numpy.lib.format``)."""

MAX_NPZ_TEXT = 64 << 20
"""Bytes of an archive's arrays of text, all of which are read when it is opened."""

MAX_HDF5_METADATA = 1 << 30
"""Bytes that are read of an HDF5 file's own structures: 1,000,000 datasets take a kilobyte each."""

FREE_HDF5_BYTES = 16 << 20
"""Bytes of metadata, and of datasets, that even a small HDF5 file may have more of than its size warrants."""

MAX_HDF5_TEXT = 64 << 20
"""Bytes of an HDF5 file's attributes and texts, all of which are read when it is opened."""

MAX_HDF5_PATH = 4096
"""Characters of a dataset's path; Keras' longest have some 200."""

MAX_HDF5_CHUNKS = 1 << 22
FREE_HDF5_CHUNKS = 1 << 16
"""Chunks of a dataset: at most so many, and past the latter no more than the file has addresses."""

MAX_HDF5_CHUNK = 1 << 27
"""Bytes of a chunk that has to be inflated whole; h5py's own choice is at most a mebibyte."""

MAX_MSGPACK_TEXT = 1 << 28
"""Bytes of keys, strings and bytes in a file of msgpack, all of which are read when it is opened."""

MAX_OCDBT_NODES = 1 << 30
"""Bytes of the nodes of an OCDBT store, inflated: 1,000,000 arrays take half a kilobyte each."""

MAX_OCDBT_RATIO = 300
FREE_OCDBT_BYTES = 64 << 20
"""What its nodes may inflate to, for each of their bytes, and beside that: documents of arrays are much alike. Those of
30,000 arrays of one shape, whose values are elsewhere, inflate to 250 times their size at most as TensorStore writes
them; with 30,000 values of zeros among them to 3,000 times, and that is 12 MB.
"""

MAX_OCDBT_TEXT_RATIO = 300
FREE_OCDBT_TEXT = 16 << 20
"""Bytes of its keys and paths, of which each leaves out what it shares with the one before: so many for each byte of
its nodes, and beside that. Of 80,000 keys of 76 bytes TensorStore makes 51.
"""

MAX_OCDBT_KEYS = 4_000_000
FREE_OCDBT_KEYS = 250_000
"""Keys of a store, two for each array and more of those in several chunks: so many, and past the latter no more than
its nodes have bytes.
"""

MAX_ZSTD_WINDOW = 1 << 27
"""zstd's own limit: what the highest of its levels looks back over."""

MAX_ZSTD_RATIO = 1 << 15
"""What zstd can reach at most: a block of 128 KiB takes four bytes."""

FREE_ZARR_BYTES = 16 << 20
"""Bytes of elements that were never written, which even a small checkpoint may have more of than its size warrants."""

MAX_ZARR_CHUNKS = 1 << 22
"""Chunks of an array."""

MAX_ZARR_WHOLE = 1 << 27
"""Bytes of a chunk whose elements lie in another order than C's, which is read whole."""

MAX_ORBAX_TEXT = MAX_INDEX_BYTES
"""Bytes of a document of Orbax's, such as its list of a tree's entries."""

MAX_FLATBUFFER_TEXT = 1 << 16
"""Bytes of a name in a FlatBuffer; TensorFlow Lite's converter joins those of what it fuses, to some thousand."""

FREE_FLATBUFFER_BYTES = 1 << 20
"""Bytes that may be read of a FlatBuffer past twice its size, since tables may share others."""

MAX_TFLITE_TEXT = 64 << 20
"""Bytes of a TensorFlow Lite model's tensors of strings and entries of metadata, which are read when it is opened."""

MAX_OPENVINO_XML = 1 << 29
MAX_OPENVINO_MARKUP = 16 << 20
"""Bytes of the document of an OpenVINO model, and of one piece of markup in it; large models have some 10 MB."""

MAX_OPENVINO_TEXT = 64 << 20
"""Bytes of an OpenVINO model's constants of texts, which are read when it is opened."""

MAX_SHARED_RATIO = 8
FREE_SHARED_BYTES = 16 << 20
"""Bytes of tensors that are not tied, for each byte of the files that they lie in, and beside that: equal ones of other
shapes may be stored once.
"""

MAX_STORED_BYTES = MAX_PICKLE_BYTES
"""Metadata that is kept beside a header: it all came from one pickle."""


def is_size(value: object) -> TypeGuard[int]:
    """Whether something from a file may be a size, a stride or a place: a whole number up to MAX_DIM, and no bool."""
    return type(value) is int and 0 <= value <= MAX_DIM
