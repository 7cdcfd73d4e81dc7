"""The records plugins register: a name, a little data, and how to ``load`` the real thing.

Registering must stay cheap (no NumPy, no GPU, no web framework): ``load`` is a function with
the import in its body, called at most once by whoever needs the thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from pydantic import BaseModel

    from shimmy.discovery.catalog import DiscoverySource
    from shimmy.engine.plan import Backend
    from shimmy.gguf.quant import QuantType
    from shimmy.graph.builder import Architecture
    from shimmy.graph.ops import Op
    from shimmy.hooks import Plugins
    from shimmy.server.context import Frontend
    from shimmy.text.tokenizer import TokenizerFactory


@dataclass(frozen=True, slots=True)
class HuggingFaceSpec:
    """How the ``config.json`` of Hugging Face's model folders describes an architecture's models.

    What happens to their weights, the architecture itself says
    (:class:`shimmy.huggingface.names.FromHuggingFace`).
    """

    classes: tuple[str, ...]
    """Values of its ``architectures``: ``LlamaForCausalLM``."""
    keys: Mapping[str, str]
    """GGUF keys below the architecture's name (``attention.head_count``) -> its keys."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What it means that one of these is left out; None: that the GGUF key is left out too."""
    expected: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values that are computed: where the key is present with another one, the folder is refused."""
    derive: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """What follows from config.json: keys that are added to it, or replaced, before it is read."""
    rotary: bool = True
    """Whether it has rotary positions."""
    ignored: tuple[str, ...] = ()
    """Ends of the names of tensors that are no weights."""
    other_modules: tuple[str, ...] = ()
    """Modules besides the language model, of models that see or hear too; they are left out."""


@dataclass(frozen=True, slots=True)
class ArchitectureSpec:
    """A model architecture; ``names`` are values of GGUF ``general.architecture``."""

    names: tuple[str, ...]
    load: Callable[[], Architecture]
    huggingface: HuggingFaceSpec | None = None
    """With it, Hugging Face's folders of such models can be served."""


@dataclass(frozen=True, slots=True)
class QuantTypeSpec:
    """A tensor type: its ggml name (``Q4_0``) and id, and the geometry of a block."""

    name: str
    ggml_id: int
    block_elements: int
    block_bytes: int
    load: Callable[[], QuantType]


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """A vocabulary kind; ``model`` is the value of GGUF ``tokenizer.ggml.model``."""

    model: str
    load: Callable[[], TokenizerFactory]
    pre_tokenizer: Callable[[Mapping[str, Any]], str | None] | None = None
    """The value of ``tokenizer.ggml.pre`` for the content of a ``tokenizer.json``, None if there is none;
    for folders that are converted, so that other programs can use the files."""


@dataclass(frozen=True, slots=True)
class ChatTemplateSpec:
    """A template family for models that carry none of their own; ``source`` is a Jinja file.

    It is taken for a model whose file says that it is made for chats and whose vocabulary has all
    of ``tokens`` as control tokens, or whose own names match ``model_names``.
    """

    name: str
    source: Traversable
    stops: tuple[str, ...] = ()
    """Texts that end an answer, where no token does."""
    tokens: tuple[str, ...] = ()
    model_names: str = ""
    """A regular expression, searched in the model's names in lower case, with ``-`` between words."""


@dataclass(frozen=True, slots=True)
class DiscoverySourceSpec:
    """A place where models may lie."""

    name: str
    load: Callable[[], DiscoverySource]


@dataclass(frozen=True, slots=True)
class FrontendSpec:
    """An API. ``routes`` are all it serves ("POST /v1/completions"): two claims are an error.

    A WebSocket is claimed as the GET request that opens it.
    """

    name: str
    routes: tuple[str, ...]
    load: Callable[[], Frontend]
    always_on: bool = False
    """Whether it is served even when the ``frontends`` setting names only others."""
    public: tuple[str, ...] = ()
    """Those of the routes, without parameters, that need no API key."""


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """A compute engine. ``auto`` takes the usable one of highest ``priority``; negative: never.

    ``probe`` returns None when the backend can run here by its own choice of device, else the reason;
    it must be cheap.
    """

    name: str
    priority: int
    probe: Callable[[], str | None]
    load: Callable[[Plugins], Backend]
    """Gets what plugins registered, for engines that others can add to."""
    check_gpu: Callable[[str], None] | None = None
    """Raises ConfigError unless the ``gpu`` setting names one of its devices; None: it computes on no GPU."""
    aliases: tuple[str, ...] = ()
    """Further names that ``engine_backend`` may have."""


@dataclass(frozen=True, slots=True)
class OpSpec:
    """A graph op beyond the core's table (see :mod:`shimmy.graph.ops`)."""

    name: str
    load: Callable[[], Op]


@dataclass(frozen=True, slots=True)
class ShaderSourceSpec:
    """WGSL for the GPU engine: the files of ``folder`` are known to all shaders as ``<name>/<path>``.

    How they are composed, and what is expected of one, docs/gpu_pipeline.md tells.
    """

    name: str
    folder: Traversable
    row_ops: Mapping[str, str] = field(default_factory=dict)
    """Ops that compute a row of results from the same row of their inputs, and each one's shader."""


@dataclass(frozen=True, slots=True)
class SettingsSpec:
    """The pydantic model that checks ``[plugins.settings.<name>]``."""

    name: str
    load: Callable[[], type[BaseModel]]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A number shown by ``/metrics``: ``read`` is called at each scrape and must be quick.

    ``kind`` is "gauge" or "counter"; ``name`` is without the ``shimmy_`` prefix.
    """

    name: str
    kind: str
    help: str
    read: Callable[[], float]
