"""A model's tensors as the engines want them: F32, or the compact layout they run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shimmy.errors import GGUFError, PluginError
from shimmy.gguf.content import Progress, content_of
from shimmy.gguf.quant import AffineRun, FloatRun, QuantType, RunnableQuantType, UnpackedQuantType
from shimmy.gguf.reader import GGUFFile
from shimmy.gguf.types import HOW_TO_ADD, no_plugin_provides, type_name, types_by_id
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec


@dataclass(frozen=True, slots=True)
class WeightInfo:
    """What a tensor is."""

    name: str
    shape: tuple[int, ...]
    """NumPy order, as in the file: (…, rows, columns), or (columns,) for a vector."""
    type: str
    """The quant type as ggml names it, ``Q4_K``; also of types no plugin provides."""


class Weights:
    """The tensors of an open file, read through the registered quant types.

    A tensor is read as a matrix of (rows, columns): a vector is one row, leading dimensions of a
    tensor with more than two are taken together. ``rows`` picks a range of them, None means all.
    Sizes of all tensors are checked at once, so a file cut short is found out before work begins.

    Raises:
        GGUFError: a tensor's data is not all there, or its rows are not whole blocks.
        PluginError: two registered types claim one ggml id.
    """

    def __init__(self, file: GGUFFile, registry: Registry[QuantTypeSpec]) -> None:
        self._file = file
        self._specs = types_by_id(registry)
        self._loaded: dict[str, QuantType] = {}
        for name, info in file.tensors.items():
            if spec := self._specs.get(info.ggml_id):
                file.n_bytes(name, spec)

    def content(self, memory: Path, threads: int, progress: Progress) -> str | None:
        """A digest of the model's files, None if it cannot be kept; see :mod:`shimmy.gguf.content`."""
        return content_of(self._file, memory, threads, progress)

    def names(self) -> list[str]:
        """All tensors, in the order of the file."""
        return list(self._file.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._file.tensors

    def info(self, name: str) -> WeightInfo:
        """Shape and type of a tensor; a GGUFError with near names if there is none."""
        info = self._file.tensor(name)
        spec = self._specs.get(info.ggml_id)
        return WeightInfo(name, info.shape, spec.name if spec else type_name(info.ggml_id))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, rows first; a GGUFError with near names if there is none."""
        return self._file.tensor(name).shape

    def dequantize(self, name: str, rows: slice | None = None) -> NDArray[np.float32]:
        """(rows, columns) of float32; read-only where the file holds just these bytes.

        Raises:
            GGUFError: no such tensor, or one of a type no plugin provides.
            ValueError: ``rows`` is empty or has a step.
        """
        quant, blocks, count = self._blocks(name, rows)
        with _damage_shows_in_numbers():
            return quant.dequantize_blocks(blocks).reshape(count, -1)

    def run_layout(self, name: str, rows: slice | None = None) -> AffineRun | FloatRun:
        """The compact layout of some rows; float32 where the type offers none.

        Raises:
            GGUFError, ValueError: as ``dequantize``.
            PluginError: its type gives what no engine could run.
        """
        quant, blocks, count = self._blocks(name, rows)
        with _damage_shows_in_numbers():
            if isinstance(quant, RunnableQuantType):
                try:
                    return quant.to_run(blocks, count)
                except PluginError as error:
                    kind = self.info(name).type
                    raise PluginError(f"tensor {name!r} of type {kind}: {error.message}") from error
            return FloatRun(quant.dequantize_blocks(blocks).reshape(count, -1))

    def unpacked_type(self, name: str) -> UnpackedQuantType | None:
        """A tensor's type if it says how its blocks are taken apart; always the same object."""
        quant = self._load(self._spec(name, self._file.tensor(name).ggml_id))
        return quant if isinstance(quant, UnpackedQuantType) else None

    def blocks(self, name: str, rows: slice | None = None) -> NDArray[np.uint8]:
        """(blocks, bytes per block): some rows as they are in the file. Raises as ``dequantize``."""
        return self._blocks(name, rows)[1]

    def release(self, name: str) -> None:
        """Say that a tensor is not needed for now, so that it takes no memory beside a packed copy."""
        self._file.release(name)

    def _blocks(self, name: str, rows: slice | None) -> tuple[QuantType, NDArray[np.uint8], int]:
        """A tensor's type, the blocks (blocks, bytes) of some of its rows, and the number of these rows."""
        info = self._file.tensor(name)
        spec = self._spec(name, info.ggml_id)
        start, stop, step = (rows or slice(None)).indices(info.rows)
        if step != 1 or start >= stop:
            raise ValueError(
                f"{rows} of the {info.rows} rows of {name!r}: expected one or more adjacent rows."
            )
        row_bytes = info.columns // spec.block_elements * spec.block_bytes
        data = self._file.raw(name, spec)[start * row_bytes : stop * row_bytes]
        return self._load(spec), data.reshape(-1, spec.block_bytes), stop - start

    def _spec(self, name: str, ggml_id: int) -> QuantTypeSpec:
        if spec := self._specs.get(ggml_id):
            return spec
        known = ", ".join(sorted(spec.name for spec in self._specs.values())) or "none"
        raise GGUFError(
            f"{self._file.path}: {no_plugin_provides(name, ggml_id)}; available: {known}.",
            hint=HOW_TO_ADD,
        )

    def _load(self, spec: QuantTypeSpec) -> QuantType:
        if spec.name not in self._loaded:
            self._loaded[spec.name] = spec.load()
        return self._loaded[spec.name]


def mixed_layouts(name: str, rows: slice, found: str, first: str) -> PluginError:
    """What is wrong where some rows of a tensor have another run layout than its first one."""
    return PluginError(
        f"tensor {name!r}: its quant type gives rows {rows.start} to {rows.stop - 1} the run "
        f"layout {found}, where the first row has {first}.",
        hint="Report it to the plugin that provides the type: a tensor has one layout.",
    )


def _damage_shows_in_numbers() -> np.errstate:
    """Scales that are damaged give NaN and infinity, without NumPy's warnings about them."""
    return np.errstate(over="ignore", invalid="ignore")
