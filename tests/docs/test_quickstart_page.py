"""docs/quickstart.md shows what `shimmy serve` prints."""

from types import SimpleNamespace

from shimmy.cli.serve import banner
from shimmy.settings import Settings
from tests.docs.pages import page


def test_the_banner():
    facts = SimpleNamespace(
        architecture="llama",
        backend="cpu",
        precision="int8",
        backend_reason="best available; wgpu: no GPU: this machine shows none in /dev",
        description="2 threads, AVX-512",
        context=8192,
        host_weight_bytes=0,
        native_context=8192,
        rope_kind="none",
        rope_factor=1.0,
        kv_bytes_per_token=45 * 1024,
        kv_type=Settings().kv_type,
    )
    card = SimpleNamespace(name="SmolLM2-135M-Instruct", quantization="Q4_1")
    assert banner(SimpleNamespace(card=card, facts=facts), None) in page("quickstart.md")
