"""``shimmy bench-load`` and ``shimmy bench-start``: a real server on a zoo model, beside a made-up one."""

import json
from pathlib import Path

import pytest

from shimmy.cli import main
from shimmy.errors import ConfigError
from shimmy.settings import load_settings
from shimmy_plugins.commands.bench.clients import Answer, Question, ask, ask_all
from shimmy_plugins.commands.bench.load.report import LoadReport
from shimmy_plugins.commands.bench.load.run import Outcome, Round
from shimmy_plugins.commands.bench.load.workload import STREAM_PROMPT, Load, questions, streams
from shimmy_plugins.commands.bench.options import span
from shimmy_plugins.commands.bench.samples import Rules, Samples
from shimmy_plugins.commands.bench.servers import Launch, ServerProcess, own_launch
from shimmy_plugins.commands.bench.start.report import StartReport
from shimmy_plugins.commands.bench.start.run import Start, entrants
from tests.zoo import model_path

ZOO = str(model_path("llama_spm.q4_0"))
ANYHOW = ("--max-foreign", "100", "--threads", "1", "--json")

#: Streams as many numbers as the request has room for. A request for 5 fails; with others beside it, each
#: answer begins anew.
PROGRAM = """#!{python}
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
if "--version" in sys.argv:
    sys.exit("version: 7 (abc)")
class Completions(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        count = body["max_tokens"]
        self.send_response(400 if count == 5 else 200)
        self.end_headers()
        if count == 5:
            self.wfile.write(b"five is too many")
            return
        for number in range(count):
            self.event({{"choices": [{{"text": f"{{number}} "}}]}})
        if count == 6:
            self.event({{"error": "six is a crowd"}})
            return
        self.event({{"choices": [], "usage": {{"completion_tokens": count}}}})
        if count != 7:
            self.wfile.write(b"data: [DONE]\\n\\n")
    def event(self, data):
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\\n\\n")
    def log_message(self, *args):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
ThreadingHTTPServer(("127.0.0.1", port), Completions).serve_forever()
"""


@pytest.fixture
def llama_server(on_path) -> Path:
    return on_path("llama-server", PROGRAM)


@pytest.fixture(autouse=True)
def a_proxy_for_others(monkeypatch):
    """Servers on this machine are asked without it."""
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def counting(llama_server):
    launch = Launch("counting", "it counts", lambda port: [str(llama_server), "--port", str(port)])
    with ServerProcess(launch) as server:
        assert server.wait_until_healthy() > 0
        yield server


def test_an_answer_has_its_text_and_times(counting):
    answer = ask(counting.url, Question([1, 2], 3))
    assert (answer.text, answer.tokens, len(answer.gaps), answer.error) == ("0 1 2 ", 3, 2, None)
    assert answer.first > 0


def test_answers_come_in_the_order_of_the_questions(counting):
    answers = ask_all(counting.url, [Question([1], count) for count in (1, 4, 2)], clients=3)
    assert [answer.tokens for answer in answers] == [1, 4, 2]


@pytest.mark.parametrize(
    ("count", "error"),
    [(5, "400: five is too many"), (6, "six is a crowd"), (7, "the stream ended before its end mark")],
)
def test_what_is_no_complete_answer_is_an_error(counting, count, error):
    assert ask(counting.url, Question([1], count)).error == error


def test_a_server_that_is_gone_is_an_error(counting):
    counting.close()
    assert ask(counting.url, Question([1], 1)).error.startswith("ConnectionRefusedError")


def run(capsys, *arguments: str) -> dict:
    assert main([*arguments, *ANYHOW]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("llama_server")
def test_load_of_a_real_server_beside_another(capsys):
    small = ("--clients", "2", "--requests", "3", "--prompt-tokens", "4-20", "--answer-tokens", "2-4")
    report = run(capsys, "bench-load", ZOO, *small, "--rounds", "1", "--vs", "llama.cpp")
    ours, theirs = report["servers"]
    assert report["load"]["requests"] == 3
    for server in (ours, theirs):
        assert (server["answers"], server["differing"], server["errors"]) == (3, 0, [])
        assert server["output_tokens_per_second"]["median"] > 0
        assert 0 < server["first_token_seconds"]["p50"] <= server["first_token_seconds"]["p99"]
        assert server["all_streams_tokens_per_second"]["count"] == 1
    assert ours["description"].endswith("--threads 1")
    assert theirs["description"] == "llama.cpp, version: 7 (abc); flash attention auto, KV cache f32"
    assert theirs["ratio"]["count"] == 1
    assert "ratio" not in ours


@pytest.mark.usefixtures("llama_server")
def test_start_of_a_real_server_beside_another(capsys):
    # Nothing to compile: what is measured is not what is tested here.
    options = ("--repetitions", "1", "--vs", "llama.cpp", "--engine-backend", "reference")
    report = run(capsys, "bench-start", ZOO, *options)
    warm, other, cold = report["servers"]
    assert [each["cold"] for each in (warm, other, cold)] == [False, False, True]
    for server in (warm, other, cold):
        assert 0 < server["healthy_seconds"][0] < server["first_token_seconds"][0]


@pytest.mark.usefixtures("llama_server")
def test_tables(capsys):
    small = ("--requests", "2", "--prompt-tokens", "4", "--answer-tokens", "2", "--rounds", "1")
    assert main(["bench-load", ZOO, *small, "--vs", "llama.cpp", *ANYHOW[:-1]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("shimmy ", "llama-server ")) for line in lines) == 4
    assert lines[-1].startswith("output, shimmy over llama-server: ")


def answered(*texts: str | None) -> list[Answer]:
    return [Answer(text or "", 2, 0.5, (0.1, 0.3), None if text else "gone") for text in texts]


LOAD = Load(2, 3, (1, 1), (1, 1), 1)
ROUND = Round(answered("a", "b", None), 2.0, 10.0, 30.0, 0.4)


def test_a_busy_machine_leaves_dashes_and_a_note(capsys):
    launch = Launch("shimmy", "our own", lambda _port: [])
    for found in (
        StartReport(Path(ZOO), Rules(), entrants([launch]), Samples([], [(Start(1, 2, 0.4),) * 2]), ()),
        LoadReport(Path(ZOO), LOAD, Rules(), Outcome([launch], Samples([], [(ROUND,)]), [[]]), ()),
    ):
        found.print_tables()
        assert capsys.readouterr().out.splitlines()[-1].split()[-2:] == ["0", "1"]
        assert "was dropped; other programs used 40%" in found.notes()[0]


def test_questions_are_the_same_in_every_run():
    load = Load(clients=3, requests=20, prompts=(5, 9), answers=(2, 4), seed=7)
    asked = questions(load, lambda text: [len(word) for word in text.split()])
    assert asked == questions(load, lambda text: [len(word) for word in text.split()])
    assert {len(question.prompt) for question in asked} == {5, 6, 7, 8, 9}
    assert {question.max_tokens for question in asked} == {2, 3, 4}
    decoding = streams(load, str.split)
    assert len(decoding) == 4
    assert {len(question.prompt) for question in decoding} == {STREAM_PROMPT}
    assert load.context == STREAM_PROMPT + 5


def test_what_differs_and_what_failed_is_counted():
    second = Round(answered("a", "x", "c"), 3.0, 10.0, 40.0, 0.0)
    rounds = Samples([(ROUND,), (second,)])
    launch = Launch("one", "the only one", lambda _port: [])
    report = LoadReport(
        Path(ZOO),
        LOAD,
        Rules(),
        Outcome([launch], rounds, [answered("a", "b", "d")]),
        ("shimmy",),
    )
    assert report.differing(0) == 2
    assert report.errors(0) == ["gone"]
    assert len(report.answers(0)) == 5
    assert report.output_rate(0).median == pytest.approx(2.5)


def test_our_server_gets_the_settings_given():
    given = {"threads": "2", "kv_type": "f16", "max_ctx": "auto", "gpu": "H100", "gpu_memory": "2GiB"}
    settings = load_settings(given)
    words = own_launch(Path("m.gguf"), settings).command(8000)
    assert words[3:] == [
        *("serve", "--base-gguf", "m.gguf", "--gpu", "H100", "--gpu-memory", str(2 << 30)),
        *("--threads", "2", "--max-ctx", "auto", "--kv-type", "f16"),
        *("--host", "127.0.0.1", "--port", "8000"),
    ]


def test_a_span_has_two_ends():
    assert span("--answer-tokens", "8-96") == (8, 96)
    assert span("--answer-tokens", "8") == (8, 8)
    for wrong in ("0-3", "9-3", "x", "1-2-3"):
        with pytest.raises(ConfigError, match="--answer-tokens is .* expected a range"):
            span("--answer-tokens", wrong)
