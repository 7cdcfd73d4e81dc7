"""Open a GGUF file: metadata and tensor table at once, tensor data as views into the mapped file.

Opening reads the head only and imports no NumPy, so a server can look into many models cheaply.
What the bytes of a tensor mean is a quant plugin's business: ``raw`` is told its geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shimmy.errors import GGUFError, did_you_mean
from shimmy.gguf.header import Header, TensorInfo, read_header
from shimmy.specs import QuantTypeSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GGUFFile", "TensorInfo", "open_gguf"]


class GGUFFile:
    """An open GGUF file; made by :func:`open_gguf`, closed by ``close()`` or a ``with`` block."""

    def __init__(self, path: Path, mapped: mmap, header: Header) -> None:
        self.path = path
        self.version: int = header.version
        self.metadata: Mapping[str, Any] = header.metadata
        """Keys to bool, int, float, str or (nested) lists of these."""
        self.tensors: Mapping[str, TensorInfo] = header.tensors
        """By name, in the order of the file's table."""
        self.size_bytes = len(mapped)
        self._mapped: mmap | None = mapped

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of this name; a GGUFError with near names if the file has none."""
        try:
            return self.tensors[name]
        except KeyError:
            raise GGUFError(
                f"{self.path}: has no tensor {name!r}.", hint=did_you_mean(name, self.tensors)
            ) from None

    def n_bytes(self, name: str, spec: QuantTypeSpec) -> int:
        """Size of a tensor's data, given the geometry of its type.

        Raises:
            GGUFError: no such tensor, another type, rows that are not whole blocks, or data that
                would run into the next tensor or past the end of the file.
        """
        info = self.tensor(name)
        where = f"{self.path}: tensor {name!r}"
        if info.ggml_id != spec.ggml_id:
            raise GGUFError(f"{where} is of ggml type {info.ggml_id}, not {spec.name} ({spec.ggml_id}).")
        if info.columns % spec.block_elements:
            raise GGUFError(
                f"{where} has rows of {info.columns} weights, expected a multiple of "
                f"{spec.block_elements}, the block of {spec.name}.",
                hint="Convert the model anew; a tensor like this should have been left unquantised.",
            )
        size = info.rows * (info.columns // spec.block_elements) * spec.block_bytes
        if size > info.room:
            end = info.offset + info.room
            bound = "the file ends" if end == self.size_bytes else "the next tensor begins"
            raise GGUFError(
                f"{where}, {spec.name} of shape {info.shape}, takes {size} bytes from byte {info.offset} "
                f"on, but {bound} at byte {end}.",
                hint="The file is damaged or incomplete: download or copy it again.",
            )
        return size

    def raw(self, name: str, spec: QuantTypeSpec) -> NDArray[np.uint8]:
        """A tensor's bytes: a flat read-only view into the file, nothing copied.

        Raises:
            GGUFError: as :meth:`n_bytes`, or the file has been closed.
        """
        import numpy as np

        size = self.n_bytes(name, spec)
        if self._mapped is None:
            raise GGUFError(f"{self.path}: is closed, tensor {name!r} can no longer be read.")
        return np.frombuffer(self._mapped, np.uint8, size, self.tensors[name].offset)

    def close(self) -> None:
        """End access to tensor data; views handed out before stay valid. Metadata stays readable."""
        mapped, self._mapped = self._mapped, None
        # BufferError: views are still in use; the mapping then goes with the last of them.
        with suppress(BufferError):
            if mapped is not None:
                mapped.close()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: str | PathLike[str]) -> GGUFFile:
    """Map a GGUF file (version 2 or 3, little endian) and read its metadata and tensor table.

    Raises:
        GGUFError: the file cannot be read, or breaks the format; names field and byte.
    """
    path = Path(path)
    mapped = _map(path)
    try:
        return GGUFFile(path, mapped, read_header(mapped, str(path)))
    except BaseException:
        mapped.close()
        raise


def _map(path: Path) -> mmap:
    try:
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)
    except FileNotFoundError:
        raise GGUFError(f"{path}: no such file.", hint="Check the path.") from None
    except PermissionError:
        raise GGUFError(
            f"{path}: may not be read by this user.", hint="Check the permissions of file and folder."
        ) from None
    except (OSError, ValueError) as error:
        # ValueError: mmap refuses an empty file, open a path with a null byte.
        raise GGUFError(f"{path}: cannot be opened: {error}.", hint="Expected a GGUF file.") from None
