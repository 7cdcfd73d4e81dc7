"""What answers of all APIs share: JSON, token counts, and the headers that tell what was done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from quart import Response

from shimmy.server.body import shown_names

#: Enough to repeat an answer that was sampled with a seed of ours.
SEED_HEADER = "X-Shimmy-Seed"
IGNORED_HEADER = "X-Shimmy-Ignored-Fields"


def json_response(body: Any, status: int = 200) -> Response:
    """``body`` as JSON."""
    return Response(msgspec.json.encode(body), status, content_type="application/json")


def annotate(response: Response, *, seed: int, ignored: Sequence[str]) -> Response:
    """Tell, in the headers, the seed of an answer and the fields that nobody knows."""
    response.headers[SEED_HEADER] = str(seed)
    if ignored:
        response.headers[IGNORED_HEADER] = ", ".join(shown_names(tuple(ignored)))
    return response


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """The token counts of an answer; ``cached_tokens`` of the prompt were found in the KV cache."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
