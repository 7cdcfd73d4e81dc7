"""From LLVM IR to native code: a target, an optimiser, a cache of object code on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import platformdirs

from shimmy.engine.plan import Progress

log = logging.getLogger("shimmy.cpu")

_DIGEST = hashlib.sha256


@dataclass(frozen=True, slots=True)
class Target:
    """A processor, as LLVM names it and its features ("+avx2,-avx512f")."""

    cpu: str
    features: str

    @classmethod
    def host(cls) -> Target:
        return cls(llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())

    def problem(self) -> str | None:
        """Why kernels would crawl on this processor: no fused multiply-add; None if it has one."""
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        return (
            f"the processor ({self.cpu}) lacks AVX2 or FMA" if x86 and not self._has("avx2", "fma") else None
        )

    @property
    def description(self) -> str:
        """The vector instructions in use."""
        return "AVX-512" if self._has("avx512f") else "AVX2" if self._has("avx2") else "NEON"

    @property
    def tiles(self) -> tuple[int, ...]:
        """How many rows a linear takes at once: their sums must fit the registers, 32 with AVX-512."""
        return (8, 4, 2, 1) if self._has("avx512f") else (2, 1)

    def _has(self, *features: str) -> bool:
        return {f"+{feature}" for feature in features} <= set(self.features.split(","))


class ObjectCache:
    """Object code by key, one file each: its SHA-256 and the code. Best effort: it never fails."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(platformdirs.user_cache_dir("shimmy")) / "kernels"

    def get(self, key: str) -> bytes | None:
        """The code; None if there is none or the file is damaged."""
        with suppress(OSError):
            stored = self._path(key).read_bytes()
            digest, code = stored[: _DIGEST().digest_size], stored[_DIGEST().digest_size :]
            if _DIGEST(code).digest() == digest:
                return code
            log.warning("%s is damaged and will be written anew", self._path(key))
        return None

    def put(self, key: str, code: bytes) -> None:
        """Store it in one move, so that no reader sees half a file."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_DIGEST(code).digest() + code)
                Path(temporary).replace(self._path(key))
            except OSError:
                Path(temporary).unlink(missing_ok=True)
                raise

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.o"


class Jit:
    """Compiled kernels, alive as long as this object."""

    def __init__(self, target: Target, cache: ObjectCache) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.target = target
        self._cache = cache
        self._machine = self._target_machine()
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self._target_machine())

    def compile(self, sources: Mapping[str, Callable[[], str]], progress: Progress) -> dict[str, int]:
        """Addresses of functions by name; each source gives the LLVM IR of the module with that one."""
        for done, source in enumerate(sources.values()):
            progress("kernels", done, len(sources))
            code = self._object(source())
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        progress("kernels", len(sources), len(sources))
        return {name: self._engine.get_function_address(name) for name in sources}

    def _object(self, source: str) -> bytes:
        parts = (source, self.target.cpu, self.target.features, llvmlite.__version__)
        key = _DIGEST("\0".join(parts).encode()).hexdigest()
        if code := self._cache.get(key):
            return code
        module = llvm.parse_assembly(source)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        passes = llvm.create_pass_builder(self._machine, options)
        passes.getModulePassManager().run(module, passes)
        compiled: bytes = self._machine.emit_object(module)
        self._cache.put(key, compiled)
        return compiled

    def _target_machine(self) -> Any:
        triple = llvm.Target.from_default_triple()
        return triple.create_target_machine(
            cpu=self.target.cpu, features=self.target.features, opt=3, jit=True
        )
