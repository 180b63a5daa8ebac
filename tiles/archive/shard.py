"""Shards: tiles of one shape and type in one uncompressed ``.npy`` file, and their validity in another.

Record ``i`` lies at a fixed place, so that reading it is a memory map and nothing else. Validity is packed, eight
pixels to the byte, along rows.
"""

import os
import secrets
import zlib
from io import BytesIO, FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tiles.errors import OutputError

_HEADER = 128  # NumPy pads its header to a multiple of 64; 128 hold any shape and type that occur here


def shard_path(folder: Path, number: int) -> Path:
    """Where shard ``number`` of a tile set lies."""
    return folder / f"shard-{number:05d}.npy"


def valid_path(folder: Path, number: int) -> Path:
    """Where the validity of shard ``number`` lies."""
    return folder / f"shard-{number:05d}.valid.npy"


def pack(valid: np.ndarray) -> np.ndarray:
    """Validity bool ``[..., H, W]`` as bits, uint8 ``[..., H, ceil(W / 8)]``."""
    return np.packbits(valid, axis=-1)


def unpack(bits: np.ndarray, width: int) -> np.ndarray:
    """Inverse of `pack`: bool ``[..., H, W]``."""
    return np.unpackbits(bits, axis=-1, count=width).view(bool)


def checksum(values: np.ndarray, bits: np.ndarray) -> int:
    """CRC-32 of a tile's digital numbers and packed validity, both C-contiguous."""
    return zlib.crc32(bits.data, zlib.crc32(values.data))


class _Records:
    """An ``.npy`` file that grows; its header is written last, when the number of records is known."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        # A worker whose cut was killed may still be writing this shard: each writes under a name of its own, and
        # whoever is done last puts the same bytes in place.
        self.partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        self.size = int(np.prod(shape)) * dtype.itemsize
        # Records are large: a buffer would only be one more copy.
        self.file: FileIO = open(self.partial, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        self.file.seek(_HEADER)

    def write(self, records: np.ndarray) -> None:
        left = records.reshape(-1).data.cast("B")
        try:
            while len(left):  # a disk that is nearly full takes a part
                left = left[self.file.write(left) :]
        except OSError as error:
            error.filename = str(self.path)  # which a plain write does not say
            raise

    def keep(self, records: int) -> None:
        self.file.seek(_HEADER + records * self.size)
        self.file.truncate()

    def close(self, records: int) -> None:
        header = BytesIO()
        fields = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (records, *self.shape),
        }
        np.lib.format.write_array_header_1_0(header, fields)
        text = header.getvalue()
        if len(text) != _HEADER:
            raise OutputError(f"{self.path} needs a header of {len(text)} bytes; tiles of this shape cannot be stored.")
        self.file.seek(0)
        self.file.write(text)
        self.file.close()

    def abort(self) -> None:
        self.file.close()
        self.partial.unlink(missing_ok=True)


class ShardWriter:
    """Writes one shard under temporary names; both files appear under their own when `close` is called."""

    def __init__(self, folder: Path, number: int, bands: int, size: int, dtype: np.dtype) -> None:
        self.records = 0
        self._values = _Records(shard_path(folder, number), (bands, size, size), np.dtype(dtype))
        self._valid = _Records(valid_path(folder, number), (size, -(-size // 8)), np.dtype(np.uint8))

    def append(self, values: np.ndarray, bits: np.ndarray) -> int:
        """Add tiles, C-contiguous ``[N, C, H, W]``, and their packed validity ``[N, H, ceil(W / 8)]``.

        Returns:
            The row of the first.
        """
        first = self.records
        self._values.write(values)
        self._valid.write(bits)
        self.records += len(values)
        return first

    def keep(self, records: int) -> None:
        """Forget all but the first ``records`` tiles."""
        self.records = records
        self._values.keep(records)
        self._valid.keep(records)

    def close(self) -> None:
        """Finish; a shard without tiles leaves no file."""
        if not self.records:
            self.abort()
            return
        try:
            for part in (self._values, self._valid):
                part.close(self.records)
            for part in (self._valid, self._values):
                os.replace(part.partial, part.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove what was written."""
        self._values.abort()
        self._valid.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def open_shard(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory maps of a shard: digital numbers ``[N, C, H, W]`` and packed validity ``[N, H, ceil(W / 8)]``."""
    # Plain arrays over the maps: slicing NumPy's own memmap class costs ten times as much.
    values, valid = (np.load(path, mmap_mode="r") for path in (shard_path(folder, number), valid_path(folder, number)))
    return values.view(np.ndarray), valid.view(np.ndarray)
