"""Open a GGUF file: metadata and tensor table at once, tensor data as views into the mapped file.

Opening reads the head only and imports no NumPy, so a server can look into many models cheaply.
A model that is split over several files is opened by its first, and is one from then on.
What the bytes of a tensor mean is a quant plugin's business: ``raw`` is told its geometry.
"""

from __future__ import annotations

import mmap as mmap_module
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from mmap import ACCESS_READ, mmap
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shimmy.errors import GGUFError, did_you_mean
from shimmy.gguf.header import Header, TensorInfo, read_header, read_metadata
from shimmy.gguf.parts import join_headers, paths_of_parts
from shimmy.specs import QuantTypeSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GGUFFile", "TensorInfo", "open_gguf", "peek_gguf"]


class GGUFFile:
    """An open GGUF file; made by :func:`open_gguf`, closed by ``close()`` or a ``with`` block."""

    def __init__(
        self, paths: Sequence[Path], mapped: Sequence[mmap], states: Sequence[os.stat_result], header: Header
    ) -> None:
        self.path = paths[0]
        self.paths = tuple(paths)
        """All files of the model, in the order of ``TensorInfo.part``."""
        self.states = tuple(states)
        """Of each file, when it was opened: whatever has the path since."""
        self.version: int = header.version
        self.metadata: Mapping[str, Any] = header.metadata
        """Keys to bool, int, float, str or (nested) lists of these."""
        self.tensors: Mapping[str, TensorInfo] = header.tensors
        """By name, in the order of the file's table."""
        self._sizes = [len(part) for part in mapped]
        self.size_bytes = sum(self._sizes)
        self._mapped: list[mmap] | None = list(mapped)

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
        if info.ggml_id != spec.ggml_id:
            found = f"is of ggml type {info.ggml_id}, not {spec.name} ({spec.ggml_id})."
            raise GGUFError(f"{self._where(info)} {found}")
        if info.columns % spec.block_elements:
            raise GGUFError(
                f"{self._where(info)} has rows of {info.columns} weights, expected a multiple of "
                f"{spec.block_elements}, the block of {spec.name}.",
                hint="Convert the model anew; a tensor like this should have been left unquantised.",
            )
        size = info.rows * (info.columns // spec.block_elements) * spec.block_bytes
        if size > info.room:
            end = info.offset + info.room
            bound = "the file ends" if end == self._sizes[info.part] else "the next tensor begins"
            raise GGUFError(
                f"{self._where(info)}, {spec.name} of shape {info.shape}, takes {size} bytes "
                f"from byte {info.offset} on, but {bound} at byte {end}.",
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
        info = self.tensors[name]
        if self._mapped is None:
            raise GGUFError(f"{self.path}: is closed, tensor {name!r} can no longer be read.")
        return np.frombuffer(self._mapped[info.part], np.uint8, size, info.offset)

    @property
    def parts(self) -> Sequence[mmap]:
        """All bytes of each file; a GGUFError if the file has been closed."""
        if self._mapped is None:
            raise GGUFError(f"{self.path}: is closed and can no longer be read.")
        return self._mapped

    def release(self, name: str) -> None:
        """Say that a tensor is not needed for now: the system may take the memory of its bytes back.

        They can be read again all the same.
        """
        info = self.tensor(name)
        if self._mapped is None or not hasattr(mmap_module, "MADV_DONTNEED"):
            return
        start = -(-info.offset // mmap_module.PAGESIZE) * mmap_module.PAGESIZE
        end = (info.offset + info.room) // mmap_module.PAGESIZE * mmap_module.PAGESIZE
        if start < end:
            self._mapped[info.part].madvise(mmap_module.MADV_DONTNEED, start, end - start)

    def _where(self, info: TensorInfo) -> str:
        return f"{self.paths[info.part]}: tensor {info.name!r}"

    def close(self) -> None:
        """End access to tensor data; views handed out before stay valid. Metadata stays readable."""
        mapped, self._mapped = self._mapped, None
        for part in mapped or ():
            # BufferError: views are still in use; the mapping then goes with the last of them.
            with suppress(BufferError):
                part.close()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_gguf(path: str | PathLike[str], *, skim: bool = False) -> GGUFFile:
    """Map a GGUF file (version 2 or 3, little endian) and read its metadata and tensor table.

    Args:
        path: the file; of a split model the first part, the others lie beside it.
        skim: step over long arrays (:class:`~shimmy.gguf.cursor.Skimmed`): enough for all but a tokenizer.

    Raises:
        GGUFError: the file cannot be read, or breaks the format; names field and byte.
    """
    path = Path(path)
    with ExitStack() as until_complete:
        states: list[os.stat_result] = []

        def opened(part: Path) -> mmap:
            each, state = _map(part)
            states.append(state)
            return until_complete.enter_context(each)

        mapped = [opened(path)]
        header = read_header(mapped[0], str(path), skim=skim)
        paths = paths_of_parts(path, header)
        if len(paths) > 1:
            mapped += [opened(part) for part in paths[1:]]
            # Only the first part's arrays are of use.
            others = zip(mapped[1:], paths[1:], strict=True)
            rest = [read_header(part, str(name), skim=True) for part, name in others]
            header = join_headers(paths, [header, *rest])
        until_complete.pop_all()
    return GGUFFile(paths, mapped, states, header)


def peek_gguf(path: Path) -> tuple[Mapping[str, Any], int]:
    """(metadata, bytes) of one file, long arrays stepped over: a tenth of a millisecond or two.

    Raises:
        GGUFError: the file cannot be read, or breaks the format as far as was looked.
    """
    with _map(path)[0] as mapped:
        return read_metadata(mapped, str(path)), len(mapped)


def _map(path: Path) -> tuple[mmap, os.stat_result]:
    """A file's bytes, and its state."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # A pipe would be waited for, a device read without end.
            raise OSError("it is not a regular file")
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ), os.fstat(file.fileno())
    except FileNotFoundError:
        raise GGUFError(f"{path}: no such file.", hint="Check the path.") from None
    except PermissionError:
        raise GGUFError(
            f"{path}: may not be read by this user.", hint="Check the permissions of file and folder."
        ) from None
    except (OSError, ValueError) as error:
        # ValueError: mmap refuses an empty file, open a path with a null byte.
        raise GGUFError(f"{path}: cannot be opened: {error}.", hint="Expected a GGUF file.") from None
