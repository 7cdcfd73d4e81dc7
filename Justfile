# `just` lists the recipes; each is one plain command that works without just as well.

# For `just tables`: the command, what both engines have in common, and a long context.
bench := "uv run --extra demo --with xllamacpp --with ik-llama-cpp-python shimmy bench"
same := "--threads 2 --kv-type f16"
deep := "--prompt-tokens 0 --generate 64 --depth 4000"

default:
    @just --list

# All tests but the long suites.
[positional-arguments]
test *arguments:
    uv run --extra test pytest "$@"

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

# The measurements of docs/performance.md, as JSON in a folder. See there for what must be installed.
tables folder="tables":
    mkdir -p {{folder}}
    {{bench}} SmolLM2-135M-Instruct {{same}} --vs llama.cpp --json > {{folder}}/smollm2-llama.json
    {{bench}} SmolLM2-135M-Instruct {{same}} --vs llama.cpp --prompt-tokens 0 --batch 8 --json > {{folder}}/smollm2-8-llama.json
    {{bench}} SmolLM2-135M-Instruct {{same}} --vs ik_llama.cpp --json > {{folder}}/smollm2-ik.json
    {{bench}} SmolLM2-135M-Instruct {{same}} --vs llama.cpp {{deep}} --json > {{folder}}/smollm2-deep-llama.json
    {{bench}} SmolLM2-135M-Instruct {{same}} --vs ik_llama.cpp {{deep}} --json > {{folder}}/smollm2-deep-ik.json
    {{bench}} SmolLM2-135M-Instruct --threads 2 --kv-type f32 --vs llama.cpp {{deep}} --json > {{folder}}/smollm2-deep-f32-llama.json
    {{bench}} --shape tinyllama-1.1b {{same}} --vs llama.cpp --json > {{folder}}/tinyllama-llama.json
    {{bench}} --shape tinyllama-1.1b {{same}} --vs llama.cpp --prompt-tokens 0 --batch 8 --json > {{folder}}/tinyllama-8-llama.json
    {{bench}} --shape tinyllama-1.1b {{same}} --vs ik_llama.cpp --json > {{folder}}/tinyllama-ik.json
    {{bench}} --shape tinyllama-1.1b --quant Q4_K_M {{same}} --vs llama.cpp --json > {{folder}}/tinyllama-k-llama.json
    {{bench}} --shape tinyllama-1.1b --quant Q4_K_M {{same}} --vs llama.cpp --prompt-tokens 0 --batch 8 --json > {{folder}}/tinyllama-k-8-llama.json
    {{bench}} --shape tinyllama-1.1b --quant Q4_K_M {{same}} --vs ik_llama.cpp --json > {{folder}}/tinyllama-k-ik.json
    {{bench}} --shape tinyllama-1.1b {{same}} --instructions avx2 --vs xllamacpp --json > {{folder}}/tinyllama-avx2-llama.json
    {{bench}} --shape tinyllama-1.1b {{same}} --instructions avx2 --vs xllamacpp --prompt-tokens 0 --batch 8 --json > {{folder}}/tinyllama-avx2-8-llama.json
    {{bench}} --shape tinyllama-1.1b {{same}} --instructions avx2 --vs ik_llama.cpp --json > {{folder}}/tinyllama-avx2-ik.json
    {{bench}}-load SmolLM2-135M-Instruct {{same}} --vs llama.cpp --json > {{folder}}/load.json
    {{bench}}-start SmolLM2-135M-Instruct {{same}} --vs llama.cpp --json > {{folder}}/start.json

# The six release gates of a model (its numbers, answers on record, speed), or of those in tests/fixtures.
[positional-arguments]
gates *arguments:
    uv run --extra test python .ci/gates.py "$@"

# Measure models of tests/fixtures and SHIMMY_ZOO on the CPU, or as `--engine wgpu --gpu NAME` says, and write docs/models.md.
[positional-arguments]
models *arguments:
    uv run --extra test python .ci/models.py measure models.json "$@"
    uv run --extra test python .ci/models.py page models.json > docs/models.md

# What has outgrown its budget of lines.
sizes:
    uv run --extra test python .ci/sizes.py

# What CI runs.
ci:
    bash .ci/run
