"""``shimmy gpu-info``, and whether the engine is chosen by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.cli.app import run
from shimmy.engine.choice import choose_backend
from shimmy.engine.settings import EngineSettings
from shimmy.errors import ConfigError
from shimmy.plugins import Plugins
from shimmy_plugins.backends import wgpu
from shimmy_plugins.backends.wgpu import adapters as listing
from shimmy_plugins.backends.wgpu import native
from shimmy_plugins.backends.wgpu.adapters import Adapter, AdapterFacts
from shimmy_plugins.backends.wgpu.device import Gpu
from shimmy_plugins.backends.wgpu.measure import measure

SOFTWARE = AdapterFacts("llvmpipe (LLVM 15.0.6, 256 bits)", "software", "Vulkan", "Mesa")
CARD = AdapterFacts("Voodoo", "discrete", "Vulkan", "3dfx")

Shimmy = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shimmy(capfd: pytest.CaptureFixture[str]) -> Shimmy:
    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return command


def test_all_adapters_are_told_as_json(shimmy: Shimmy, adapter: Adapter, gpu: Gpu):
    code, out, _ = shimmy("gpu-info", "--gpu", adapter.facts.name, "--json")
    report = json.loads(out)
    assert (code, report["reason"], report["measured"]) == (0, f"gpu is {adapter.facts.name!r}", None)
    told = report["adapters"][report["chosen"]]
    assert (told["name"], told["type"], told["api"]) == (
        adapter.facts.name,
        adapter.facts.kind,
        adapter.facts.api,
    )
    assert told["limits"]["buffer"] == gpu.limits.buffer
    assert (told["subgroup"], tuple(told["features"])) == (gpu.subgroup, gpu.features)
    assert [each["index"] for each in report["adapters"]] == list(range(len(report["adapters"])))


def test_people_read_lines(shimmy: Shimmy, adapter: Adapter):
    code, out, _ = shimmy("gpu-info", "--gpu", "0")
    assert code == 0
    first, *others = out.splitlines()
    assert first.split(maxsplit=2) == ["GPU", "0", adapter.facts.name]
    assert others[-1].split(maxsplit=1) == ["computes", "GPU 0: gpu is '0'"]


def test_what_is_measured_is_plausible(gpu: Gpu):
    if "timestamp-query" not in gpu.features:
        pytest.skip("the adapter cannot")
    measured = measure(gpu)
    assert measured.bytes_read >= min(128 << 20, gpu.limits.storage_binding)
    assert 1e8 < measured.bandwidth < 1e14
    assert 1e-8 < measured.independent_dispatch < 0.1
    assert 1e-8 < measured.dependent_dispatch < 0.1
    assert 1e-7 < measured.recorded_dispatch < 1e-3
    assert 1e-6 < measured.round_trip < 1


def test_measurements_are_shown(shimmy: Shimmy, gpu: Gpu):
    if "timestamp-query" not in gpu.features:
        pytest.skip("the adapter cannot")
    code, out, _ = shimmy("gpu-info", "--gpu", "0", "--measure")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "][-3:] == [
        "bandwidth",
        "dispatch",
        "round",
    ]


def test_a_wrong_name_is_wrong_usage(shimmy: Shimmy, adapter: Adapter):
    code, out, err = shimmy("gpu-info", "--gpu", "no such card")
    assert (code, out) == (2, "")
    assert "error: gpu is 'no such card', which is no adapter here. There are: 0: " in err


# -- made-up machines -----------------------------------------------------------------------------


def pretend(monkeypatch: pytest.MonkeyPatch, *facts: AdapterFacts) -> None:
    """Let the machine have these adapters, none of which can be opened."""
    shown = tuple(Adapter(each, native.NULL, native.NULL) for each in facts)
    monkeypatch.setattr(listing, "list_adapters", lambda: shown)
    monkeypatch.setattr(wgpu, "has_node", lambda devices: True)


def test_without_a_gpu_the_reason_is_told(shimmy: Shimmy, monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch)
    code, out, _ = shimmy("gpu-info", "--json")
    assert code == 0
    assert json.loads(out) == {
        "adapters": [],
        "chosen": None,
        "reason": "no GPU: no adapter of Vulkan, Metal, D3D12 or OpenGL",
        "measured": None,
    }
    code, out, _ = shimmy("gpu-info")
    assert out == "computes  no GPU: no adapter of Vulkan, Metal, D3D12 or OpenGL\n"
    code, _, err = shimmy("gpu-info", "--measure")
    assert code == 2
    assert "there is nothing to measure: no GPU" in err


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ((), "no GPU: no adapter of Vulkan, Metal, D3D12 or OpenGL"),
        (
            (SOFTWARE,),
            "no GPU: only the software adapter llvmpipe, which is used only when named (--gpu llvmpipe)",
        ),
        ((CARD, SOFTWARE), None),
    ],
)
def test_the_engine_is_chosen_if_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, facts: tuple[AdapterFacts, ...], problem: str | None
):
    pretend(monkeypatch, *facts)
    assert wgpu.probe() == problem


def choose(plugins: Plugins, **settings: str) -> tuple[str, str]:
    name, reason, _ = choose_backend(None, EngineSettings(**settings), plugins)
    return name, reason


@pytest.mark.parametrize("backend", ["auto", "wgpu", "airframe"])
def test_a_software_adapter_that_is_named_computes(plugins: Plugins, adapter: Adapter, backend: str):
    name = adapter.facts.name
    assert choose(plugins, gpu=name, backend=backend) == ("wgpu", f"gpu is {name!r}")


def test_without_a_gpu_the_processor_computes(monkeypatch: pytest.MonkeyPatch, plugins: Plugins):
    pretend(monkeypatch, SOFTWARE)
    name, reason = choose(plugins)
    assert name != "wgpu"
    assert reason.startswith("best available; wgpu: no GPU: only the software adapter llvmpipe")
    with pytest.raises(
        ConfigError, match="engine_backend is 'airframe', which cannot run here: no GPU: only"
    ):
        choose(plugins, backend="airframe")
    with pytest.raises(ConfigError, match="gpu is 'H100', which is no adapter here. There are: 0: llvmpipe"):
        choose(plugins, gpu="H100")


def test_linux_shows_gpus_in_dev(tmp_path: Path):
    for name in ("null", "dri/card0", "nvme0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert not wgpu.has_node(tmp_path)
    for name in ("dri/renderD128", "nvidia0", "dxg"):
        (tmp_path / name).touch()
        assert wgpu.has_node(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.skipif(sys.platform != "linux" or wgpu.has_node(Path("/dev")), reason="there may be a GPU here")
def test_a_linux_without_a_gpu_need_not_be_asked_twice():
    assert wgpu.probe() == "no GPU: this machine shows none in /dev"
    code = (
        "import sys; from shimmy_plugins.backends.wgpu import probe; probe(); sys.exit('wgpu' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_looking_closer_is_quick():
    """Imports and all; 0.4 s on an idle machine, this bound leaves room for a busy one."""
    code = "from shimmy_plugins.backends.wgpu.adapters import list_adapters, unusable; list_adapters()"
    times = []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.monotonic() - start)
    assert min(times) < 2
