"""From the numbers a GGUF file uses for tensor types to quant types and names. No NumPy."""

from __future__ import annotations

from shimmy.errors import PluginError
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec

#: What makes a file of a type usable that no plugin provides.
HOW_TO_ADD = (
    "Install or enable a plugin that registers the type (`shimmy init quant NAME` writes one to begin with), "
    "or take a file of another type."
)


def types_by_id(registry: Registry[QuantTypeSpec]) -> dict[int, QuantTypeSpec]:
    """The registered quant types by ggml id; a PluginError if two claim the same one."""
    specs: dict[int, QuantTypeSpec] = {}
    for spec in registry:
        if other := specs.get(spec.ggml_id):
            raise PluginError(
                f"ggml type id {spec.ggml_id} is claimed twice: as {other.name} by "
                f"{registry.owner(other.name)} and as {spec.name} by {registry.owner(spec.name)}.",
                hint="Disable one of them with `plugins.disabled` or --without.",
            )
        specs[spec.ggml_id] = spec
    return specs


def type_name(ggml_id: int) -> str:
    """ggml's name of a type no plugin provides, for messages and listings; ``type 99`` if it has none."""
    return known_name(ggml_id) or f"type {ggml_id}"


def known_name(ggml_id: int) -> str | None:
    """ggml's name of a type, provided by a plugin or not; None if it has none."""
    # 0.1 s of import for a name: only where none of our own types says it.
    from gguf.constants import GGMLQuantizationType

    try:
        return str(GGMLQuantizationType(ggml_id).name)
    except ValueError:
        return None


def no_plugin_provides(tensor: str, ggml_id: int) -> str:
    """What is wrong with a tensor of a type that is not registered, as the beginning of a sentence."""
    known = known_name(ggml_id)
    kind = f"{known} (id {ggml_id} in ggml)" if known else f"with ggml's id {ggml_id}"
    return f"tensor {tensor!r:.90} is of the quant type {kind}, which no plugin provides"
