"""An architecture from a distribution of its own, installed beside shimmy, serves a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import architectures

EXAMPLE = Path(__file__).parents[2] / "examples" / "shimmy-arch-olmo2"

ANSWER = """
import asyncio, json, sys
from pathlib import Path
from shimmy.engine.client import EngineClient
from shimmy.engine.protocol import Sampling
from shimmy.engine.settings import EngineSettings

async def main():
    settings = EngineSettings(precision="f32", plugins_disabled=tuple(sys.argv[2:]))
    client = EngineClient("olmo2", Path(sys.argv[1]), settings)
    try:
        for tokens in json.load(sys.stdin):
            got = []
            async for events in client.generate(
                tokens, max_tokens=16, sampling=Sampling(temperature=0.0), stop_ids=[]
            ):
                got += [event.token for event in events]
            print(json.dumps(got))
    finally:
        await client.close()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with the example installed: a pure wheel is installed by unpacking it."""
    folder = tmp_path_factory.mktemp("example")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return {**os.environ, "PYTHONPATH": str(folder / "site")}


def run(environment: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_is_listed_like_a_built_in_plugin(environment: dict[str, str]) -> None:
    result = run(environment, "-m", "shimmy", "plugins", "--json")
    (row,) = [row for row in json.loads(result.stdout) if row["name"] == "example-olmo2"]
    assert (row["distribution"], row["status"]) == ("shimmy-arch-olmo2", "loaded")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return architectures.folder("olmo2", tmp_path_factory.mktemp("model"))


def test_it_serves_a_model_whose_architecture_shimmy_does_not_know(
    environment: dict[str, str], model: Path
) -> None:
    generations = architectures.recorded("olmo2")["generations"]
    prompts = json.dumps([generation["prompt"] for generation in generations])
    result = run(environment, "-c", ANSWER, str(model), stdin=prompts)
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert answers == [generation["ids"] for generation in generations]


def test_without_it_the_model_is_refused_by_name(environment: dict[str, str], model: Path) -> None:
    result = run(environment, "-c", ANSWER, str(model), "example-olmo2", stdin="[[1]]")
    assert result.returncode != 0
    assert "'Olmo2ForCausalLM'" in result.stderr


def test_its_own_tests_pass(environment: dict[str, str]) -> None:
    """And `shimmy verify` counts what docs/adding_an_architecture.md says."""
    page = (EXAMPLE.parents[1] / "docs" / "adding_an_architecture.md").read_text("utf-8")
    result = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"))
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1].partition(" in ")[0] in page
    options = ("--precision", "f32", "--references", str(EXAMPLE / "tests" / "olmo2.json"))
    result = run(environment, "-m", "shimmy", "verify", str(EXAMPLE / "tests" / "olmo2.gguf"), *options)
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1] in page
