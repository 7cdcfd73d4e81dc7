"""A phase's dispatches, compiled and bound, at the size of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from shimmy_plugins.backends.wgpu.device import BindGroup, Call, Gpu, Pipeline, Program, Slice
from shimmy_plugins.backends.wgpu.fallback import Fallback
from shimmy_plugins.backends.wgpu.kernel import Dispatch, Kernel, Size
from shimmy_plugins.backends.wgpu.objects import as_calls

#: Sizes of steps whose workgroups are remembered.
_REMEMBERED = 256

Part: TypeAlias = Program | Fallback


class PhaseProgram:
    """Programs of dispatches, with the fallbacks between them."""

    def __init__(self, gpu: Gpu, lowered: Sequence[Dispatch | Fallback]) -> None:
        self._parts: list[_Stretch | Fallback] = []
        for item in lowered:
            if isinstance(item, Fallback):
                self._parts.append(item)
            elif self._parts and isinstance(self._parts[-1], _Stretch):
                self._parts[-1].dispatches.append(item)
            else:
                self._parts.append(_Stretch(gpu, [item]))

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Labels of nodes that are computed by their NumPy definition, for want of a kernel."""
        return tuple(
            part.node.label for part in self._parts if isinstance(part, Fallback) and not part.is_segment
        )

    @property
    def waits(self) -> bool:
        """Whether the processor computes some of it, so that a step cannot be submitted in one go."""
        return any(isinstance(part, Fallback) for part in self._parts)

    @property
    def lowered(self) -> list[Dispatch | Fallback]:
        """What is computed, in order."""
        items: list[Dispatch | Fallback] = []
        for part in self._parts:
            items += [part] if isinstance(part, Fallback) else part.dispatches
        return items

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels, each once."""
        dispatches = [item for item in self.lowered if isinstance(item, Dispatch)]
        return list({kernel.source: kernel for d in dispatches for kernel in d.kernels}.values())

    def at(self, size: Size) -> Iterator[Part]:
        """The programs with the workgroups of a step, valid until the next is asked for, and fallbacks."""
        for part in self._parts:
            yield part if isinstance(part, Fallback) else part.at(size)

    def calls_at(self, size: Size) -> Iterator[list[tuple[Dispatch, Call]] | Fallback]:
        """The same, but each call beside the dispatch it is of; those that have nothing to do left out."""
        for part in self._parts:
            if isinstance(part, Fallback):
                yield part
            else:
                calls = zip(part.dispatches, as_calls([part.at(size)]), strict=True)
                yield [(dispatch, call) for dispatch, call in calls if call.x and call.y and call.z]

    def unbind(self) -> None:
        """Forget bind groups: a buffer has been replaced by another."""
        for part in self._parts:
            if isinstance(part, _Stretch):
                part.unbind()


class _Stretch:
    """Dispatches that follow each other: a program for each choice of kernels, made when first needed."""

    def __init__(self, gpu: Gpu, dispatches: list[Dispatch]) -> None:
        self.dispatches = dispatches
        self._gpu = gpu
        self._groups: dict[tuple[int, int], BindGroup] = {}
        self._programs: dict[tuple[int, ...], Program] = {}
        self._sizes: dict[Size, tuple[Program, list[tuple[int, int, int]]]] = {}

    def at(self, size: Size) -> Program:
        if size not in self._sizes:
            if len(self._sizes) >= _REMEMBERED:
                self._sizes.clear()
            picks = tuple(dispatch.pick(size) for dispatch in self.dispatches)
            grids = [d.kernels[pick].grid(size) for d, pick in zip(self.dispatches, picks, strict=True)]
            self._sizes[size] = self._program(picks), grids
        program, grids = self._sizes[size]
        program.sizes[:] = grids
        return program

    def unbind(self) -> None:
        self._groups.clear()
        self._programs.clear()
        self._sizes.clear()

    def _program(self, picks: tuple[int, ...]) -> Program:
        if picks not in self._programs:
            kernels = [d.kernels[pick] for d, pick in zip(self.dispatches, picks, strict=True)]
            for kernel in kernels:
                self._gpu.prepare(kernel.source, kernel.label)
            calls = []
            for at, (pick, kernel) in enumerate(zip(picks, kernels, strict=True)):
                pipeline = self._gpu.pipeline(kernel.source, kernel.label)
                calls.append(self._gpu.call(pipeline, self._group(at, pick, pipeline), 1))
            self._programs[picks] = self._gpu.program(calls)
        return self._programs[picks]

    def _group(self, at: int, pick: int, pipeline: Pipeline) -> BindGroup:
        if (at, pick) not in self._groups:
            slices = [x if isinstance(x, Slice) else x() for x in self.dispatches[at].slices]
            self._groups[at, pick] = self._gpu.bind(pipeline, slices)
        return self._groups[at, pick]
