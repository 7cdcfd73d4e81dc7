# `just` lists the recipes; each is one plain command that works without just as well.

default:
    @just --list

# All tests but the long suites.
test *arguments:
    uv run --extra test pytest {{arguments}}

# Style and types.
lint:
    uv run --extra test ruff check .
    uv run --extra test ruff format --check .
    uv run --extra test mypy

# Format and repair what can be repaired.
fix:
    uv run --extra test ruff check --fix .
    uv run --extra test ruff format .

# Serve the demo model.
demo:
    uv run --extra demo shimmy serve

# What CI runs.
ci:
    bash .ci/run
