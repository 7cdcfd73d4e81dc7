"""The unmodified ``openai`` package against ``shimmy serve`` with a real model."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import openai
import pytest

from tests.serve.server_process import MODEL, ServerProcess

SKY = "Why is the sky blue?"


@pytest.fixture
def client(real_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{real_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_printed_curl_works_as_printed(real_server: ServerProcess) -> None:
    [command] = [line.strip() for line in real_server.banner.splitlines() if "curl " in line]
    answer = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    assert '"finish_reason"' in answer


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": SKY}], max_tokens=24, temperature=0
    )
    [choice] = answer.choices
    assert "light" in choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24


def test_chat_stream_with_usage_is_the_same_answer(client: openai.OpenAI) -> None:
    request = {
        "model": MODEL,
        "messages": [{"role": "user", "content": SKY}],
        "max_tokens": 24,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**request)
    text, usage, finish = "", None, None
    with client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
    assert text == whole.choices[0].message.content
    assert finish == "length"
    assert usage == whole.usage


def test_a_turn_that_ends_by_itself(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is 1+1? Answer with one number."}],
        temperature=0,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "<|im_end|>" not in answer.choices[0].message.content


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=3, temperature=0
    )
    assert "Paris" in answer.choices[0].text


def test_completion_stream_with_stop(client: openai.OpenAI) -> None:
    with client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4,", max_tokens=20, temperature=0, stop=" 7", stream=True
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == " 5, 6,"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_text(client: openai.OpenAI) -> None:
    def answer(seed: int) -> str | None:
        return (
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": SKY}], max_tokens=12, seed=seed
            )
            .choices[0]
            .message.content
        )

    assert answer(1) == answer(1)
    assert len({answer(1), answer(2), answer(3)}) > 1


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": SKY}],
        max_tokens=2,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    for token in answer.choices[0].logprobs.content:
        assert token.logprob <= 0
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3


def test_logit_bias_forbids_a_token(client: openai.OpenAI) -> None:
    def first(**fields: object) -> openai.types.chat.chat_completion_token_logprob.ChatCompletionTokenLogprob:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": SKY}],
            max_tokens=1,
            temperature=0,
            logprobs=True,
            **fields,
        )
        return answer.choices[0].logprobs.content[0]

    # "The" is token 504 of this vocabulary.
    assert first().token == "The"
    assert first(logit_bias={"504": -100}).token != "The"


def test_models(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_are_the_packages_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean 'SmolLM2-135M-Instruct'") as missing:
        client.chat.completions.create(model="SmolLM2", messages=[{"role": "user", "content": "hi"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature is 9") as invalid:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], temperature=9
        )
    assert invalid.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="100000 requested") as too_long:
        client.completions.create(model=MODEL, prompt="hi", max_tokens=100_000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing-like-it")
