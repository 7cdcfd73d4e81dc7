"""Many clients at once on a real model: those that stay are served as if alone."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.serve.server_process import MODEL, ServerProcess, wait_for

STAYING, VANISHING = 16, 50
#: Token ids that end an answer of this model; forbidden where an answer must be long.
ENDS = {"0": -100, "2": -100}


def _request(text: str, max_tokens: int) -> dict[str, object]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }


async def _stay(client: openai.AsyncOpenAI, number: int) -> str:
    text = ""
    async with await client.chat.completions.create(**_request(f"Count from {number}.", 16)) as stream:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    return text


async def _vanish(client: openai.AsyncOpenAI, number: int) -> None:
    request = _request(f"Tell me a story about {number} mice.", 2000)
    async with await client.chat.completions.create(**request, logit_bias=ENDS) as stream:
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                return


@pytest.mark.timeout(240)
def test_clients_that_vanish_change_nothing_for_the_others(real_server: ServerProcess) -> None:
    async def scenario() -> tuple[list[str], list[str]]:
        url = f"{real_server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            alone = [await _stay(client, number) for number in range(STAYING)]
            vanishing = [asyncio.create_task(_vanish(client, number)) for number in range(VANISHING)]
            together = await asyncio.gather(*(_stay(client, number) for number in range(STAYING)))
            await asyncio.gather(*vanishing)
            return alone, together

    before = real_server.metric("shimmy_requests_total")
    alone, together = asyncio.run(scenario())
    assert together == alone
    wait_for(lambda: real_server.metric("shimmy_requests_total") == before + 2 * STAYING + VANISHING)
    assert real_server.metric("shimmy_requests_active") == 0


@pytest.mark.timeout(240)
def test_memory_returns(real_server: ServerProcess) -> None:
    with openai.OpenAI(base_url=f"{real_server.url}/v1", api_key="none") as client:
        with client.chat.completions.create(**_request("Tell me a story.", 2000), logit_bias=ENDS) as stream:
            next(iter(stream))
        client.completions.create(model=MODEL, prompt="x", max_tokens=1)
    wait_for(lambda: real_server.metric("shimmy_requests_active") == 0)
    wait_for(lambda: real_server.metric("shimmy_kv_blocks_used") == 0)
    assert real_server.metric("shimmy_sequences_running") == 0
