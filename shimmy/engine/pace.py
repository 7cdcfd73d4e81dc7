"""How many tokens a step computes, so that those who generate do not wait long for their next one."""

from __future__ import annotations

#: Seconds that a step with parts of prompts shall take while others generate.
STEP_SECONDS = 0.2
#: The smallest part of a prompt worth a step; shorter steps tell nothing of how fast prompts are.
LEAST_TOKENS = 16
#: Weight of the newest step in the running mean.
_NEWEST = 0.25


class Pace:
    """Learns from the steps so far. Results do not depend on it: a row does not depend on its batch."""

    def __init__(self, most: int) -> None:
        self.most = most
        """Tokens of a step while nobody generates."""
        self._seconds_per_token: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        if tokens < LEAST_TOKENS:
            return
        newest, mean = seconds / tokens, self._seconds_per_token
        self._seconds_per_token = newest if mean is None else mean + _NEWEST * (newest - mean)

    def tokens(self, generating: int) -> int:
        """Most tokens of the next step, in which so many sequences generate."""
        if not generating or self._seconds_per_token is None:
            return self.most
        affordable = int(STEP_SECONDS / self._seconds_per_token)
        return min(max(affordable, generating + LEAST_TOKENS), self.most)
