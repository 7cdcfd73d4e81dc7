"""Buffers, pipelines and steps on a device, and how what goes wrong is told."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from shimmy.errors import EngineError, OutOfMemoryError
from shimmy_plugins.backends.wgpu.adapters import Adapter
from shimmy_plugins.backends.wgpu.device import Buffer, Call, Gpu, Slice
from shimmy_plugins.backends.wgpu.native import NULL, Errors, ffi, lib, set_text

#: value = value * 2 + 1 of every element.
STEP = """
@group(0) @binding(0) var<storage, read_write> values: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&values)) { values[id.x] = values[id.x] * 2u + 1u; }
}
"""


def stepping(gpu: Gpu, words: int = 100) -> tuple[Buffer, Call]:
    """A buffer of zeros, and the call that makes x of each element 2x + 1."""
    buffer = gpu.buffer(words * 4, "values")
    pipeline = gpu.pipeline(STEP, "step")
    return buffer, gpu.call(pipeline, gpu.bind(pipeline, [buffer.whole()]), -(-words // 64))


def test_a_buffer_is_zeros_of_whole_words(gpu: Gpu):
    buffer = gpu.buffer(10, "odd")
    assert buffer.size == 12
    assert gpu.read(buffer, np.uint8).tolist() == [0] * 12


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 1023, 70_001])
@pytest.mark.parametrize("offset", [0, 4, 512])
def test_what_is_uploaded_is_read(gpu: Gpu, count: int, offset: int):
    data = np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8)
    buffer = gpu.buffer(offset + count, "bytes")
    gpu.upload(buffer, data, offset)
    assert np.array_equal(gpu.read(buffer, np.uint8, offset + count)[offset:], data)
    assert gpu.read(buffer, np.uint8)[:offset].max(initial=0) == 0


def test_an_upload_of_many_pieces_arrives_whole(gpu: Gpu, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shimmy_plugins.backends.wgpu.device.UPLOAD_BYTES", 4096)
    data = np.arange(10_001, dtype=np.float16)
    buffer = gpu.buffer(data.nbytes, "pieces")
    gpu.upload(buffer, data)
    assert np.array_equal(gpu.read(buffer, np.float16, data.size), data)


def test_slices_are_read_and_written_where_they_lie(gpu: Gpu):
    buffer = gpu.buffer(1024, "parts")
    gpu.upload(buffer.slice(256, 256), np.full(64, 7, np.uint32))
    gpu.upload(buffer.slice(512, 256), b"\x01\x02\x03\x04", 252)
    words = gpu.read(buffer, np.uint32)
    assert [np.flatnonzero(words == 7).tolist(), words[191]] == [list(range(64, 128)), 0x04030201]
    assert gpu.read(buffer.slice(256, 256), np.uint32, 3).tolist() == [7, 7, 7]
    assert gpu.read(buffer, np.uint32, 0).size == 0


def test_calls_run_in_order(gpu: Gpu):
    buffer, call = stepping(gpu)
    gpu.run([call] * 5)
    assert set(gpu.read(buffer, np.uint32)) == {2**5 - 1}


def test_a_slice_is_bound_as_if_it_were_the_buffer(gpu: Gpu):
    buffer = gpu.buffer(1024, "arena")
    pipeline = gpu.pipeline(STEP, "step")
    gpu.run([gpu.call(pipeline, gpu.bind(pipeline, [buffer.slice(256, 512)]), 16)])
    assert np.flatnonzero(gpu.read(buffer, np.uint32)).tolist() == list(range(64, 192))


def test_a_program_takes_other_sizes_at_each_submit(gpu: Gpu):
    buffer, call = stepping(gpu, 256)
    program = gpu.program([call, call])
    program.sizes[:] = [(1, 1, 1), (0, 1, 1)]
    gpu.run([program])
    program.sizes[:] = [(4, 1, 1), (2, 1, 1)]
    gpu.run([program, call])
    words = gpu.read(buffer, np.uint32)
    assert [words[0], words[64], words[128], words[255]] == [15, 7, 3, 3]


def test_steps_in_flight_tell_their_own_values(gpu: Gpu):
    buffer, call = stepping(gpu)
    tickets = [gpu.submit([call], [buffer.slice(0, 4), buffer.slice(256, 8)]) for _ in range(12)]
    found = [ticket.wait() for ticket in reversed(tickets)][::-1]
    assert [np.frombuffer(first, np.uint32).tolist() for first, _ in found] == [
        [2**n - 1] for n in range(1, 13)
    ]
    assert all(second == first * 2 for first, second in found)
    assert all(ticket.done() and ticket.wait() for ticket in tickets)


def test_a_step_that_reads_nothing_can_be_waited_for(gpu: Gpu):
    buffer, call = stepping(gpu)
    ticket = gpu.submit([call])
    assert ticket.wait() == ()
    assert ticket.done()
    assert gpu.read(buffer, np.uint32, 1) == [1]


def test_tickets_nobody_waits_for_are_harmless(gpu: Gpu):
    buffer, call = stepping(gpu)
    for _ in range(20):
        gpu.submit([call], [buffer.whole()])
    assert gpu.read(buffer, np.uint32, 1) == [2**20 - 1]


def test_large_results_are_read(gpu: Gpu):
    data = np.random.default_rng(1).integers(0, 2**32, 3 << 20, dtype=np.uint32)
    buffer = gpu.buffer(data.nbytes, "large")
    gpu.upload(buffer, data)
    assert np.array_equal(gpu.read(buffer, np.uint32), data)


def test_equal_sources_are_compiled_once(gpu: Gpu):
    assert gpu.pipeline(STEP, "step") is gpu.pipeline(STEP, "again")


def test_lanes_of_a_subgroup_are_known(gpu: Gpu):
    assert gpu.subgroup in (0, 4, 8, 16, 32, 64, 128)
    assert (gpu.subgroup > 0) == ("subgroup" in gpu.features and gpu.facts.even_subgroups)


@pytest.mark.parametrize("between", [True, False])
@pytest.mark.parametrize("count", [1, 100, 2049])
def test_each_call_is_timed(gpu: Gpu, between: bool, count: int, monkeypatch: pytest.MonkeyPatch):
    features = [name for name in gpu.features if between or not name.endswith("-passes")]
    if "timestamp-query" not in features or between == ("timestamp-query-inside-passes" not in features):
        pytest.skip("the adapter cannot")
    monkeypatch.setattr(gpu, "features", tuple(features))
    gpu.__dict__.pop("_timer", None)
    buffer, call = stepping(gpu)
    seconds = gpu.seconds([call] * count)
    gpu.__dict__.pop("_timer")
    assert len(seconds) == count
    assert min(seconds) >= 0
    assert 0 < sum(seconds) < 60
    assert gpu.read(buffer, np.uint32, 1) == [2 ** min(count, 32) - 1]


def test_a_program_is_timed_at_its_sizes(gpu: Gpu):
    if "timestamp-query" not in gpu.features:
        pytest.skip("the adapter cannot")
    buffer, call = stepping(gpu, 256)
    program = gpu.program([call, call])
    program.sizes[:] = [(4, 1, 1), (0, 1, 1)]
    assert len(gpu.seconds([program, call])) == 3
    assert gpu.read(buffer, np.uint32, 1) == [3]
    assert gpu.elapsed([program]) >= 0
    assert gpu.read(buffer, np.uint32, 1) == [7]


def test_longer_calls_take_longer(gpu: Gpu):
    if "timestamp-query" not in gpu.features:
        pytest.skip("the adapter cannot")
    (_, short), (_, long) = stepping(gpu, 64), stepping(gpu, 2_000_000)
    gpu.run([short, long])
    shortest, longest = (
        min(times) for times in zip(*(gpu.seconds([short, long]) for _ in range(5)), strict=True)
    )
    assert longest > 3 * shortest


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_shader_that_does_not_compile_is_shown(gpu: Gpu):
    source = "@compute @workgroup_size(64)\nfn main() {\n    let x = unknown + 1;\n}\n"
    with pytest.raises(EngineError) as caught:
        gpu.pipeline(source, "bad kernel")
    assert "compiling the shader 'bad kernel'" in str(caught.value)
    assert "let x = unknown + 1;" in str(caught.value)
    with pytest.raises(EngineError, match="bad kernel"):  # a failure is no result to be kept
        gpu.pipeline(source, "bad kernel")


def test_a_shader_prepared_in_a_thread_fails_where_it_is_wanted(gpu: Gpu):
    source = "@compute @workgroup_size(64)\nfn main() {\n    let x = unheard_of + 1;\n}\n"
    gpu.prepare(source, "prepared")
    gpu._compiling[source].exception(timeout=10)
    assert gpu.read(gpu.buffer(4, "another"), np.uint32).tolist() == [0]
    with pytest.raises(EngineError, match="(?s)'prepared'.*unheard_of"):
        gpu.pipeline(source, "prepared")


def test_a_shader_is_compiled_once(gpu: Gpu):
    source = STEP.replace("* 2u", "* 3u")
    gpu.prepare(source, "prepared")
    gpu.prepare(source, "prepared")
    assert gpu.pipeline(source, "step") is gpu.pipeline(source, "step")


def test_a_shader_without_main_is_an_error(gpu: Gpu):
    with pytest.raises(EngineError, match="(?s)'other'.*entry point 'main'"):
        gpu.pipeline(STEP.replace("fn main", "fn other"), "other")


@pytest.mark.parametrize("count", [0, 2])
def test_other_bindings_than_declared_are_an_error(gpu: Gpu, count: int):
    pipeline = gpu.pipeline(STEP, "step")
    with pytest.raises(EngineError, match=rf"(?s)to 'step'.*\({count}\)"):
        gpu.bind(pipeline, [gpu.buffer(64, "one").whole()] * count)


def test_a_slice_that_is_bound_must_be_aligned(gpu: Gpu):
    with pytest.raises(EngineError, match="starts at 64, no multiple of 256"):
        gpu.bind(gpu.pipeline(STEP, "step"), [gpu.buffer(512, "one").slice(64, 64)])


@pytest.mark.parametrize("piece", [(512, 256), (0, 768)])
def test_a_slice_beyond_its_buffer_is_an_error(gpu: Gpu, piece: tuple[int, int]):
    with pytest.raises(EngineError, match="one: 512 bytes"):
        gpu.bind(gpu.pipeline(STEP, "step"), [gpu.buffer(512, "one").slice(*piece)])


def test_data_must_fit_its_place(gpu: Gpu):
    buffer = gpu.buffer(64, "small")
    with pytest.raises(EngineError, match="17 bytes cannot be written at 48 of 64 of 'small'"):
        gpu.upload(buffer, bytes(17), 48)
    with pytest.raises(EngineError, match="at 2 of 64"):
        gpu.upload(buffer, bytes(4), 2)
    with pytest.raises(EngineError, match="17 float32 are more than the 64 bytes of 'small'"):
        gpu.read(buffer, np.float32, 17)


def test_too_many_workgroups_are_an_error_of_their_step_alone(gpu: Gpu):
    buffer, call = stepping(gpu)
    with pytest.raises(EngineError, match=str(gpu.limits.workgroups)):
        gpu.run([gpu.call(call.pipeline, call.group, gpu.limits.workgroups + 1)])
    gpu.run([call])
    assert gpu.read(buffer, np.uint32, 1) == [1]


def test_a_buffer_over_the_limit_is_an_error_with_the_arithmetic(gpu: Gpu):
    with pytest.raises(
        OutOfMemoryError, match=r"no memory for weights, 1048576\.00 GiB, on .*: a buffer can have"
    ):
        gpu.buffer(2**50, "weights")


def test_the_budget_holds(adapter: Adapter):
    gpu = Gpu(adapter, memory=3 << 20)
    first = gpu.buffer(2 << 20, "first")
    with pytest.raises(
        OutOfMemoryError,
        match=r"for second, 2\.0 MiB, .* it may take 3\.0 MiB \(gpu_memory\), 2\.0 MiB are in use",
    ):
        gpu.buffer(2 << 20, "second")
    assert gpu.free == 1 << 20
    first.destroy()
    assert gpu.free == 3 << 20
    gpu.buffer(2 << 20, "second")
    gpu.close()


def test_memory_is_counted_while_something_refers_to_it(gpu: Gpu):
    gc.collect()
    before = gpu.used
    buffer, call = stepping(gpu, 1000)
    alive = weakref.ref(buffer)
    del buffer
    assert alive() is not None, "its bind group holds it"
    assert gpu.used == before + 4000
    del call
    gc.collect()
    assert gpu.used == before


def test_destroyed_buffers_are_refused(gpu: Gpu):
    buffer, call = stepping(gpu)
    gpu.run([call])
    buffer.destroy()
    for use in (
        lambda: gpu.run([call]),
        lambda: gpu.run([gpu.program([call])]),
        lambda: gpu.read(buffer, np.uint32),
        lambda: gpu.upload(Slice(buffer, 0, 4), bytes(4)),
        lambda: gpu.bind(call.pipeline, [buffer.whole()]),
    ):
        with pytest.raises(EngineError, match="values"):
            use()


# -- a device that is gone ------------------------------------------------------------------------


def lose(errors: Errors, reason: int, message: str) -> None:
    """Let the library report that a device is lost."""
    descriptor, view = ffi.new("WGPUDeviceDescriptor *"), ffi.new("WGPUStringView *")
    errors.install(descriptor)
    _memory = set_text(view[0], message)
    descriptor.deviceLostCallbackInfo.callback(NULL, reason, view[0], NULL, NULL)


def test_a_lost_device_is_an_error_from_then_on():
    errors = Errors("Voodoo")
    errors.check("adding")
    lose(errors, lib.WGPUDeviceLostReason_Unknown, "too hot")
    for _ in range(2):
        with pytest.raises(EngineError, match="the GPU Voodoo was lost while adding: too hot. .*starts anew"):
            errors.check("adding")


def test_a_device_that_is_closed_is_not_lost():
    errors = Errors("Voodoo")
    lose(errors, lib.WGPUDeviceLostReason_Destroyed, "")
    errors.check("adding")


def test_memory_that_runs_out_is_told_as_that():
    errors = Errors("Voodoo")
    descriptor, view = ffi.new("WGPUDeviceDescriptor *"), ffi.new("WGPUStringView *")
    errors.install(descriptor)
    _memory = set_text(view[0], "Not enough memory left.")
    descriptor.uncapturedErrorCallbackInfo.callback(NULL, lib.WGPUErrorType_OutOfMemory, view[0], NULL, NULL)
    with pytest.raises(OutOfMemoryError, match="Voodoo has no memory left, adding: Not enough memory left."):
        errors.check("adding")
    errors.check("adding")


@pytest.mark.parametrize("use", ["gpu.run([call])", "gpu.read(buffer, 'u4')", "gpu.buffer(4, 'more')"])
def test_whoever_uses_a_device_that_is_gone_ends(adapter: Adapter, use: str):
    """The library may end the process: so a worker ends, too, and is started anew."""
    code = f"""
        from shimmy_plugins.backends.wgpu.adapters import list_adapters
        from shimmy_plugins.backends.wgpu.native import lib
        from shimmy_plugins.backends.wgpu.device import Gpu
        from tests.backend.wgpu.test_device import stepping
        gpu = Gpu(list_adapters()[0])
        buffer, call = stepping(gpu)
        gpu.run([call])
        lib.wgpuDeviceDestroy(gpu._device)
        {use}
        print("still here")
    """
    root = Path(__file__).parents[3]
    ended = subprocess.run(
        [sys.executable, "-c", dedent(code)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "still here" not in ended.stdout
    assert "EngineError" in ended.stderr or "panicked" in ended.stderr
