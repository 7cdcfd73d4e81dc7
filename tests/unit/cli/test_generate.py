"""``shimmy generate``: prompts, answers, sampling, and how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.unit.cli.conftest import Run

GREEDY = ("--temperature", "0", "--max-tokens", "12")


@pytest.fixture
def answer(run: Run, model: str):
    """``answer("--raw", prompt="Hello")`` -> the JSON of a greedy answer."""

    def answer_it(*arguments: str, prompt: str = "Hello") -> dict[str, Any]:
        code, out, err = run("generate", model, "--prompt", prompt, *GREEDY, *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return answer_it


def test_an_answer_as_json(answer, model):
    result = answer("--seed", "-7")
    text = result.pop("response")
    usage = result.pop("usage")
    assert text
    assert result == {"model": model, "done_reason": "length", "seed": -7}
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12


def test_streamed_or_not_the_answer_is_the_same(run, answer, model):
    expected = answer()["response"] + "\n"
    assert run("generate", model, "--prompt", "Hello", *GREEDY) == (0, expected, "")
    assert run("generate", model, "--prompt", "Hello", *GREEDY, "--no-stream") == (0, expected, "")


def test_without_a_name_the_default_model_answers(run, answer):
    assert run("generate", "--prompt", "Hello", *GREEDY)[1] == answer()["response"] + "\n"


def test_raw_prompts_go_in_as_they_are(answer):
    raw, templated = answer("--raw"), answer()
    assert raw["usage"]["prompt_tokens"] < templated["usage"]["prompt_tokens"]
    assert raw["response"] != templated["response"]


def test_a_system_message_comes_before_the_prompt(answer):
    plain, told = answer(), answer("--system", "You are a cat.")
    assert told["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_a_system_message_needs_a_template(run, model):
    code, _, err = run("generate", model, "--prompt", "Hello", "--raw", "--system", "You are a cat.")
    assert code == 2
    assert "'--system': it needs a chat template" in err


@pytest.mark.usefixtures("base_model")
def test_a_base_model_continues_and_says_so(run):
    code, out, err = run("generate", "--prompt", "The king", *GREEDY)
    assert code == 0
    assert "note: the prompt is continued as it stands, as with --raw: its file carries none" in err
    assert run("generate", "--prompt", "The king", *GREEDY, "--raw") == (0, out, "")
    code, _, err = run("generate", "--prompt", "The king", "--system", "You are a cat.")
    assert code == 1
    assert "error: this model has no usable chat template" in err


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_prompts_from_standard_input(answer, monkeypatch, end):
    expected = answer(prompt="Grüße")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"Grüße{end}".encode())))
    assert answer(prompt="-")["response"] == expected["response"]


def test_prompts_are_utf_8(run, model, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    for prompt in ("-", "\udcff"):
        code, _, err = run("generate", model, "--prompt", prompt)
        assert code == 2
        assert "'--prompt': it is not UTF-8" in err


def test_stop_texts_end_the_answer(answer):
    whole = answer("--raw")["response"]
    cut = answer("--raw", "--stop", "never to be found", "--stop", whole[4:7])
    assert cut["response"] == whole[: whole.index(whole[4:7])]
    assert cut["done_reason"] == "stop"


def test_an_empty_stop_text_is_refused(run, model):
    code, _, err = run("generate", model, "--prompt", "Hello", "--stop", "")
    assert code == 1
    assert "a stop string is empty" in err


def test_sampling_flags_and_settings_say_the_same(run, model, monkeypatch):
    arguments = ("generate", model, "--prompt", "Hello", "--max-tokens", "12", "--seed", "5")
    flags = ("--temperature", "1.5", "--top-k", "40", "--top-p", "0.9", "--min-p", "0.01")
    by_flags = run(*arguments, *flags, "--repeat-penalty", "1.2")
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        monkeypatch.setenv(f"SHIMMY_SAMPLING__{flag[2:].replace('-', '_').upper()}", value)
    monkeypatch.setenv("SHIMMY_SAMPLING__REPEAT_PENALTY", "1.2")
    assert run(*arguments) == by_flags
    assert run(*arguments, "--temperature", "0") != by_flags


@pytest.mark.parametrize("penalty", ["--presence-penalty", "--frequency-penalty"])
def test_penalties_count(answer, penalty):
    assert answer("--raw", "--max-tokens", "60") != answer("--raw", "--max-tokens", "60", penalty, "2")


def test_a_random_seed_is_told_and_repeats(run, model):
    arguments = ("generate", model, "--prompt", "Hello", "--max-tokens", "8", "--json")
    first = json.loads(run(*arguments)[1])
    assert json.loads(run(*arguments, "--seed", str(first["seed"]))[1]) == first


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--temperature", "3", "sampling.temperature is '3' (from --temperature)"),
        ("--max-tokens", "0", "Invalid value for '--max-tokens'"),
        ("--presence-penalty", "5", "Invalid value for '--presence-penalty'"),
    ],
)
def test_values_out_of_range_are_exit_code_2(run, model, flag, value, named):
    code, out, err = run("generate", model, "--prompt", "Hello", flag, value)
    assert (code, out) == (2, "")
    assert named in err


def test_what_does_not_fit_the_context_is_exit_code_1(run, model):
    code, _, err = run("generate", model, "--prompt", "Hello", "--max-tokens", "5000")
    assert code == 1
    assert "this model's context holds 1024 tokens" in err


def test_unknown_models_are_exit_code_1(run, model):
    code, _, err = run("generate", "llama_spn", "--prompt", "Hello")
    assert code == 1
    assert "there is no model 'llama_spn'" in err
    assert "Did you mean 'llama_spm'?" in err


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_ctrl_c_ends_an_answer_with_130():
    # A model large enough to be still at it when the signal arrives, and an answer without an end.
    arguments = ("generate", "--prompt", "1 2 3 4", "--raw", "--max-tokens", "8000", "--temperature", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "shimmy", *arguments],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        # Whoever is started in the background by a shell ignores it, and so do all of its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.stderr.read() == b""
    assert process.returncode == 130
    assert rest.endswith(b"\n")
