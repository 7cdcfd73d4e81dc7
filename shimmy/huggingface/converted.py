"""The GGUF files made of model folders: found again by the folder's content, written whole or not at all.

Finding the content of gigabytes takes seconds, so the outcome is remembered with size and times of
change of each file. Two processes that convert at once both do the work, and either file is good.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from shimmy import __version__
from shimmy.caches import cache_folder
from shimmy.errors import GGUFError, ModelError
from shimmy.files import remove_abandoned, written_whole
from shimmy.gguf.encode import writable_type
from shimmy.gguf.reader import open_gguf
from shimmy.gguf.types import types_by_id
from shimmy.gguf.writer import LazyTensor, write_gguf
from shimmy.huggingface.folder import ModelFolder
from shimmy.huggingface.memory import FolderMemory, state_of
from shimmy.huggingface.model import FolderModel, model_name
from shimmy.huggingface.tensors import ConvertedTensor, TypeChooser, converted_tensors

if TYPE_CHECKING:
    from shimmy.graph.ops import Op
    from shimmy.hooks import Plugins
    from shimmy.specs import QuantTypeSpec

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(phase, done, total)."""

#: What is left free on the disk, for all else that is written there.
_SPARE_BYTES = 2**26
_CHUNK = 2**24
_DIGEST = 16

_log = logging.getLogger(__name__)


def converted_folders() -> Path:
    """Where the files are kept."""
    return cache_folder() / "converted"


@dataclass(frozen=True, slots=True)
class Converter:
    """Makes GGUF files of folders.

    Args:
        plugins: the architectures and types.
        ops: what graphs consist of, to check weights against.
        quantize: the type of matrices, by ggml's name, in capitals or not.
        cache: where the files are kept.
    """

    plugins: Plugins
    ops: Mapping[str, Op]
    quantize: str
    cache: Path

    def file_of(self, path: Path, progress: Progress) -> Path:
        """The GGUF file of a folder, made now if there is none of this content yet.

        Raises:
            ModelError: the folder cannot be converted, says why; nothing is left behind then.
            ConfigError: there is no such type to write.
        """
        wanted = writable_type(self.quantize, self.plugins.quant_types)
        model = FolderModel(ModelFolder(path), self.plugins)
        memory = FolderMemory(self.cache, path)
        state = state_of(model.folder, *self._circumstances(model))
        known = memory.digest(state)
        digest = known or self._digest(model, progress)
        name = re.sub(r"[^\w.-]", "_", model_name(path), flags=re.ASCII)
        target = self.cache / f"{name}-{digest}-{wanted.name.lower()}.gguf"
        if not (target.exists() and self._is_whole(target)):
            self._convert(model, wanted, target, progress)
        if known is None:
            memory.remember(state, digest)
        return target

    def _convert(self, model: FolderModel, wanted: QuantTypeSpec, target: Path, progress: Progress) -> None:
        tensors = converted_tensors(model, TypeChooser(wanted, self.plugins.quant_types), self.ops)
        metadata = {**model.metadata, "general.file_type": _file_type(wanted.name)}
        total = sum(tensor.n_bytes for tensor in tensors.values())
        self.cache.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.cache)
        if (free := shutil.disk_usage(self.cache).free) < total + _SPARE_BYTES:
            raise ModelError(
                f"{model.folder.path}: as {wanted.name} it takes {total >> 20} MiB in {self.cache}, where "
                f"{free >> 20} MiB are free.",
                hint="Make room there, or take a smaller type with `quantize`.",
            )
        _log.info("%s is converted to %s, once: %s", model.folder.path, wanted.name, target)
        phase = f"converting to {wanted.name}"
        try:
            with written_whole(target) as part:
                write_gguf(part, metadata, _reporting(tensors, phase, total, progress))
        except OSError as error:
            raise ModelError(f"{target}: cannot be written: {error.strerror or error}.") from error

    def _digest(self, model: FolderModel, progress: Progress) -> str:
        """Identifies the content of all files, and the circumstances."""
        digest = hashlib.blake2b("\0".join(self._circumstances(model)).encode())
        total, done = model.folder.size_bytes, 0
        for path in model.folder.files():
            digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    progress("reading", min(done, total), total)
        return digest.hexdigest()[:_DIGEST]

    def _circumstances(self, model: FolderModel) -> list[str]:
        """What decides besides the files: who converts them, and the name that goes into the file."""
        owner = self.plugins.architectures.owner(model.architecture)
        versions = [f"{info.owner} {info.version}" for info in self.plugins.infos if info.owner == owner]
        return [__version__, *versions, model_name(model.folder.path)]

    def _is_whole(self, path: Path) -> bool:
        try:
            with open_gguf(path, skim=True) as file:
                specs = types_by_id(self.plugins.quant_types)
                for name, tensor in file.tensors.items():
                    file.n_bytes(name, specs[tensor.ggml_id])
        except GGUFError as error:
            _log.warning("a converted model is damaged and is made anew: %s", error)
            return False
        return True


def _reporting(
    tensors: Mapping[str, ConvertedTensor], phase: str, total: int, progress: Progress
) -> dict[str, LazyTensor]:
    """For the writer, with progress."""
    done = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        progress(phase, done, total)

    return {name: tensor.lazy(written) for name, tensor in tensors.items()}


def _file_type(name: str) -> int:
    """ggml's number for files mostly of this type."""
    from gguf import LlamaFileType

    members = LlamaFileType.__members__
    known = members.get(f"MOSTLY_{name}") or members.get(f"ALL_{name}") or LlamaFileType.GUESSED
    return int(known)
