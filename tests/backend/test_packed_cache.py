"""Packed weights on disk: the same bits, no packing, right for just this content, best effort."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from shimmy.engine import load
from shimmy.engine.load import load_engine
from shimmy.engine.plan import Limits
from shimmy.engine.settings import EngineSettings
from shimmy.gguf.content import IDENTIFYING
from shimmy.gguf.quant import AffineRun, FloatRun, Scales
from shimmy_plugins.backends.cpu.backend import CpuBackend
from shimmy_plugins.backends.cpu.jit import Jit, Target
from shimmy_plugins.backends.cpu.layouts import FloatLayout
from shimmy_plugins.backends.cpu.loading import MAPPED, PackedWeights
from shimmy_plugins.backends.cpu.object_cache import ObjectCache
from shimmy_plugins.backends.cpu.packed_cache import KEEPING, LAYOUT_VERSION, PackedCache, Place
from tests.backend.harness import (
    AFFINE,
    F32,
    LIMITS,
    PLUGINS,
    Affine,
    MadeUpWeights,
    Part,
    batch_of,
    compile_with,
    no_progress,
    rows_of,
)
from tests.zoo import model_path

pytestmark = pytest.mark.skipif(Target.host().problem() is not None, reason="the cpu backend cannot run here")

CACHED = replace(LIMITS, packed_cache=1 << 30)
STEP = batch_of([Part(range(3, 40), 0, [0, 1])])
PACKING = "weights"


@dataclass
class Start:
    """What a start was like."""

    logits: F32
    mapped_bytes: int
    weight_bytes: int
    phases: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Here:
    """A model, a folder of packed weights of its own, and kernels compiled before."""

    model: Path
    packed: Path
    kernels: ObjectCache

    def start(
        self,
        *,
        limits: Limits = CACHED,
        model: Path | None = None,
        target: Target | None = None,
        during: Callable[[str], None] = lambda _phase: None,
    ) -> Start:
        phases: set[str] = set()

        def progress(phase: str, _done: int, _total: int) -> None:
            phases.add(phase)
            during(phase)

        plan = compile_with(CpuBackend(target, self.kernels), model or self.model, limits, progress)
        plan.reserve(2)
        start = Start(rows_of(plan, STEP), plan.mapped_bytes, plan.weight_bytes, phases)
        plan.close()
        return start

    def files(self) -> list[Path]:
        return sorted(self.packed.glob("*.packed"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    kernels = ObjectCache()  # those of all tests
    monkeypatch.setenv("SHIMMY_CACHE_DIR", str(tmp_path / "cache"))
    model = tmp_path / "model.gguf"
    shutil.copy(model_path("llama_spm.q4_k_m"), model)
    return Here(model, tmp_path / "cache" / "packed", kernels)


# -- what it is for -----------------------------------------------------------------------------------


def test_later_starts_map_what_the_first_has_packed(here: Here) -> None:
    without = here.start(limits=LIMITS)
    assert not here.packed.exists()
    first, second = here.start(), here.start()
    assert {IDENTIFYING, PACKING, KEEPING} <= first.phases
    assert second.phases - {"kernels"} == {MAPPED}
    assert (first.mapped_bytes, second.mapped_bytes) == (0, second.weight_bytes)
    assert first.weight_bytes == second.weight_bytes == without.weight_bytes
    np.testing.assert_array_equal(first.logits, without.logits)
    np.testing.assert_array_equal(second.logits, without.logits)
    assert len(here.files()) == 1
    assert not list(here.packed.glob("*.part"))


def test_mapped_matrices_are_read_only_and_aligned(here: Here) -> None:
    here.start()
    plan = compile_with(CpuBackend(cache=here.kernels), here.model, CACHED)
    matrices = plan._plain.lowered.weights._matrices.values()
    assert not any(matrix.data.flags.writeable for matrix in matrices)
    assert {matrix.data.ctypes.data % 64 for matrix in matrices} == {0}
    plan.close()


def test_all_instructions_share_one_file(here: Here) -> None:
    if Target.host().description == "NEON":
        pytest.skip("not an x86 processor")
    first = here.start(target=Target.host().at_most("avx2"))
    [file] = here.files()
    packed = file.read_bytes()
    assert MAPPED in here.start().phases
    file.unlink()
    np.testing.assert_array_equal(here.start().logits, first.logits)
    assert file.read_bytes() == packed


def elsewhere(here: Here) -> F32:
    return here.start().logits


def test_two_processes_at_once(here: Here) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as processes:
        first, second = processes.map(elsewhere, [here, here])
    third = here.start()
    assert MAPPED in third.phases
    np.testing.assert_array_equal(first, third.logits)
    np.testing.assert_array_equal(second, third.logits)
    assert len(here.files()) == 1


def test_what_is_mapped_is_no_room_for_keys_and_values(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system counts it as free."""
    free = 1 << 30
    monkeypatch.setattr(load, "available_memory", lambda: free)
    settings = EngineSettings(backend="cpu", packed_cache=True)
    found = []
    for _ in range(2):
        loaded = load_engine(here.model, "m", settings, PLUGINS, no_progress)
        found.append((loaded.ready.kv_memory, loaded.ready.weight_bytes))
        loaded.engine.close()
    assert found[0][0] == free // 2
    assert found[1][0] == (free - found[1][1]) // 2


# -- which content ------------------------------------------------------------------------------------


def test_a_model_trained_further_is_another_one(here: Here) -> None:
    """Of the same size and shapes, its first rows unchanged, and as old as before."""
    here.start()
    before = here.model.stat()
    with here.model.open("r+b") as file:
        file.seek(-50_000, os.SEEK_END)
        some = file.read(40_000)
        file.seek(-50_000, os.SEEK_END)
        file.write(bytes(byte ^ 1 for byte in some))
    os.utime(here.model, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = here.start()
    assert {IDENTIFYING, PACKING} <= changed.phases
    np.testing.assert_array_equal(changed.logits, here.start(limits=LIMITS).logits)
    assert len(here.files()) == 2


def test_a_copy_of_a_model_is_known(here: Here, tmp_path: Path) -> None:
    here.start()
    shutil.copy(here.model, tmp_path / "copy.gguf")
    found = here.start(model=tmp_path / "copy.gguf")
    assert {IDENTIFYING, MAPPED} <= found.phases


@pytest.fixture
def cache(tmp_path: Path) -> PackedCache:
    return PackedCache(tmp_path, "content", 1 << 30)


def floats_at(first: float) -> dict[str, Place]:
    return {"a": Place(FloatLayout("f32"), (2, 3), FloatRun(np.full((1, 40), first, np.float32)))}


def matrix() -> np.ndarray:
    return np.ones((2, 3), FloatLayout("f32").block)


def test_a_quant_type_that_reads_otherwise_than_before(cache: PackedCache) -> None:
    assert cache.find(floats_at(1.0)) is None
    cache.keep({"a": matrix()}, no_progress)
    assert cache.find(floats_at(2.0)) is None
    found = cache.find(floats_at(1.0))
    assert found is not None
    np.testing.assert_array_equal(found["a"], matrix())


def made_up(form: Affine, rows: int = 32) -> AffineRun:
    """A run that is the same with every version of NumPy."""

    def counted(columns: int, step: int, most: int, kind: type) -> np.ndarray:
        return (np.arange(rows * columns) * step % most).astype(kind).reshape(rows, columns)

    def scales(step: int) -> Scales:
        units = counted(512 // (256 if form.factor else form.group), step, 1021, np.int16)
        most = min(31, 2**form.factor_bits)
        factors = None if form.factor is None else counted(512 // form.group, step, most, form.factor)
        return Scales((units / 64).astype(form.unit), factors, form.factor_bits)

    offsets = form.zero if form.centred else scales(11)
    codes = counted(512, 7, 2**form.bits, np.uint8)
    return AffineRun(codes, form.bits, form.group, scales(5), offsets, form.codebook)


#: What packing made of the runs above, by version. Whoever changes it raises ``LAYOUT_VERSION``.
DIGESTS = {1: "d54cb7a4ad5012f6"}


def test_the_version_says_where_packing_puts_what(here: Here) -> None:
    """Files of other layouts would be taken for good ones."""
    count = np.arange(32 * 48).reshape(32, 48)
    runs = {f"r{i}": made_up(form) for i, form in enumerate(AFFINE)}
    runs |= {kind.__name__: FloatRun(count.astype(kind)) for kind in (np.float32, np.float16, np.uint16)}
    packed = PackedWeights(MadeUpWeights(**runs))
    packed.lay_out([f"{name}.weight" for name in runs])
    kernels = {kernel.name: kernel.ir for kernel in packed.kernels()}
    jit = Jit(Target.host(), here.kernels)
    packed.load(jit.compile(kernels, no_progress), 1, no_progress)
    digest = hashlib.sha256(b"".join(packed.matrix(f"{name}.weight").data.tobytes() for name in runs))
    assert DIGESTS.get(LAYOUT_VERSION) == digest.hexdigest()[:16]


# -- best effort --------------------------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    return content[:-1000]


def foreign(content: bytes) -> bytes:
    return b"GGUF" + content[4:]


def other_content(content: bytes) -> bytes:
    at = content.index(b'"content"')
    return content[:at] + content[at : at + 20].swapcase() + content[at + 20 :]


@pytest.mark.parametrize("damage", [cut, foreign, other_content, lambda _: b"", lambda c: c + b"x"])
def test_a_damaged_file_is_written_anew(
    here: Here, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = here.start()
    [file] = here.files()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = here.start()
    assert PACKING in again.phases
    assert f"{file} is damaged and will be written anew" in caplog.text
    np.testing.assert_array_equal(first.logits, again.logits)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SHIMMY_CACHE_DIR", str(tmp_path / "file" / "cache"))
    start = here.start()
    assert PACKING in start.phases
    assert IDENTIFYING not in start.phases
    assert "cannot be remembered" in caplog.text


def test_weights_are_mapped_from_a_folder_that_became_read_only(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.start()

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr("shimmy.gguf.content.replace_file", refuse)
    assert MAPPED in here.start().phases


def test_a_disk_without_room_is_left_alone(
    here: Here, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(here.model)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert KEEPING not in here.start().phases
    assert "packed weights are not kept: they take" in caplog.text
    assert "0 MiB are free" in caplog.text
    assert not here.files()


def test_a_disk_that_fills_up(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    def fill_up(phase: str) -> None:
        if phase == KEEPING:
            raise OSError(28, "No space left on device")

    expected = here.start(limits=LIMITS)
    np.testing.assert_array_equal(here.start(during=fill_up).logits, expected.logits)
    assert "packed weights are not kept: [Errno 28]" in caplog.text
    assert not list(here.packed.glob("*.pa*"))


def test_those_unused_longest_make_room(tmp_path: Path) -> None:
    caches = [PackedCache(tmp_path, f"content{i}", 1 << 30) for i in range(3)]
    for age, cache in enumerate(caches):
        cache.find(floats_at(1.0))
        cache.keep({"a": matrix()}, no_progress)
        os.utime(cache._path, (1e9 + age, 1e9 + age))
    assert caches[0].find(floats_at(1.0))  # is used again
    size = caches[0]._path.stat().st_size
    last = PackedCache(tmp_path, "content3", 2 * size)
    last.find(floats_at(1.0))
    last.keep({"a": matrix()}, no_progress)
    assert {*tmp_path.iterdir()} == {caches[0]._path, last._path}


def test_a_model_that_is_larger_than_all_may_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = PackedCache(tmp_path, "content", 1000)
    with caplog.at_level(logging.WARNING):
        cache.find(floats_at(1.0))
        cache.keep({"a": matrix()}, no_progress)
    assert "packed_cache_size allows 0 MiB" in caplog.text
    assert not list(tmp_path.iterdir())
