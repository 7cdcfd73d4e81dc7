"""OLMo 2 by shimmy's conformance kit, on a tiny model; the answers are transformers' in float32."""

from __future__ import annotations

from pathlib import Path

from shimmy.testing import ArchitectureConformance

HERE = Path(__file__).parent


class TestOlmo2(ArchitectureConformance):
    references = HERE / "olmo2.json", "transformers_f32"

    def file(self, folder: Path) -> Path:
        return HERE / "olmo2.gguf"
