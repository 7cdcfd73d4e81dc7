"""From LLVM IR to native code for a processor."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from shimmy.engine.plan import Progress
from shimmy.errors import ConfigError
from shimmy_plugins.backends.cpu.object_cache import ObjectCache, sources_digest

#: What names of x86 features newer than AVX2 begin with.
_NEWER = ("avx512", "avx10", "avxvnni", "avxifma", "avxneconvert", "amx")


#: What people wait for when the cache does not have a kernel.
COMPILING = "compiling kernels for this processor, once"


@dataclass(frozen=True, slots=True)
class Target:
    """A processor, as LLVM names it and its features ("+avx2,-avx512f")."""

    cpu: str
    features: str

    @classmethod
    def host(cls) -> Target:
        return cls(llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())

    def at_most(self, instructions: str) -> Target:
        """This processor without what is newer; ConfigError if it lacks them itself. "auto": all it has."""
        if instructions == "auto":
            return self
        if not self._has(instructions):
            raise ConfigError(
                f"instructions is {instructions!r}, which the processor ({self.cpu}) lacks.",
                hint="Leave instructions at 'auto'.",
                param="instructions",
            )
        features = [f"-{f[1:]}" if f[1:].startswith(_NEWER) else f for f in self.features.split(",")]
        # A processor's name brings its instructions along: that of the first with AVX2 brings no more.
        return Target("haswell", ",".join(features))

    def problem(self) -> str | None:
        """Why kernels would crawl, or fail to link, on this processor; None if it has what they need."""
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return None
        # Without F16C, LLVM calls functions for half floats that are nowhere here.
        missing = [name.upper() for name in ("avx2", "fma", "f16c") if not self._has(name)]
        return f"the processor ({self.cpu}) lacks {', '.join(missing)}" if missing else None

    @property
    def description(self) -> str:
        """The vector instructions in use."""
        return "AVX-512" if self._has("avx512f") else "AVX2" if self._has("avx2") else "NEON"

    @property
    def accumulators(self) -> int:
        """How many vectors of 16 running sums fit the registers, with room for what is added."""
        return 24 if self._has("avx512f") else 6

    @property
    def dot(self) -> str:
        """Which instructions multiply bytes and add: a key of ``kernels.dot.DOTS``."""
        if self._has("avx512vnni"):
            return "vnni512"
        if self._has("avxvnni"):
            return "vnni256"
        if self._has("avx2"):
            return "avx2"
        return "sdot" if self._has("dotprod") else "portable"

    def _has(self, *features: str) -> bool:
        return {f"+{feature}" for feature in features} <= set(self.features.split(","))


class Jit:
    """Compiled kernels, alive as long as this object."""

    def __init__(self, target: Target, cache: ObjectCache) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.target = target
        self._cache = cache.of(target.cpu, target.features, llvmlite.__version__, sources_digest())
        self._machine = self._target_machine()
        self._addresses: dict[str, int] = {}
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self._target_machine())

    def compile(self, sources: Mapping[str, Callable[[], str]], progress: Progress) -> dict[str, int]:
        """Addresses of functions by name; each source gives the LLVM IR of a module with that one.

        Where the cache has a function of this name, its source is not asked for; what has been
        compiled here before is not compiled again.
        """
        new = {name: source for name, source in sources.items() if name not in self._addresses}
        compiled = False
        for done, (name, source) in enumerate(new.items()):
            code = self._cache.get(name)
            progress("kernels" if code else COMPILING, done, len(sources))
            if code is None:
                code = self._object(source())
                self._cache.put(name, code)
                compiled = True
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        if compiled:
            self._cache.prune()
        self._engine.finalize_object()
        progress("kernels", len(sources), len(sources))
        self._addresses |= {name: self._engine.get_function_address(name) for name in new}
        return {name: self._addresses[name] for name in sources}

    def _object(self, source: str) -> bytes:
        module = llvm.parse_assembly(source)
        module.verify()
        # Kernels are vectors and unrolled loops already: more of it costs time and wins nothing.
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
        passes = llvm.create_pass_builder(self._machine, options)
        passes.getModulePassManager().run(module, passes)
        code: bytes = self._machine.emit_object(module)
        return code

    def _target_machine(self) -> Any:
        triple = llvm.Target.from_default_triple()
        return triple.create_target_machine(
            cpu=self.target.cpu, features=self.target.features, opt=3, jit=True
        )
