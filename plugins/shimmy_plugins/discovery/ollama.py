"""Models that Ollama pulled: a manifest per name and tag, which names the file among the blobs.

``manifests/HOST/NAMESPACE/MODEL/TAG`` is JSON with layers; the layer of :data:`MODEL_LAYER` has a
digest ``sha256:…``, its file is ``blobs/sha256-…``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shimmy import hookimpl
from shimmy.specs import DiscoverySourceSpec

if TYPE_CHECKING:
    from shimmy.discovery.places import Places
    from shimmy.discovery.records import DiscoverySource, FoundModel, Report, Skipped
    from shimmy.settings import Settings

NAME = "ollama"
MODEL_LAYER = "application/vnd.ollama.image.model"
#: Left out of names, as Ollama does.
DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
#: A manifest's folders: host, model and tag at least.
LEAST_PARTS = 3
#: Where the service that Linux packages install keeps its models.
SYSTEM_FOLDER = Path("/usr/share/ollama/.ollama/models")
#: No honest manifest is larger.
MOST_BYTES = 2**20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Ollama:
    """The folder OLLAMA_MODELS names, the user's own and that of the system's service."""

    def __init__(self, places: Places | None = None, system_folder: Path = SYSTEM_FOLDER) -> None:
        from shimmy.discovery.places import Places

        self._places = places or Places()
        self._system_folder = system_folder

    def scan(self, settings: Settings) -> Iterator[Report]:  # noqa: ARG002
        """A name that is in two folders is the first one's."""
        from shimmy.discovery.records import FoundModel, Skipped

        first: dict[str, Path] = {}
        for folder in self.folders():
            for report in _folder(folder):
                if isinstance(report, FoundModel) and first.setdefault(report.name, folder) != folder:
                    reason = f"{first[report.name]} has a model {report.name!r} as well, which comes first."
                    yield Skipped(report.path, NAME, reason)
                else:
                    yield report

    def folders(self) -> list[Path]:
        """Where models may lie, the likeliest first; they need not exist."""
        named = self._places.variable("OLLAMA_MODELS")
        system = [self._system_folder] if self._places.platform.startswith("linux") else []
        usual = [self._places.home / ".ollama" / "models", *system]
        return list(dict.fromkeys([*([named] if named else []), *usual]))


def _folder(folder: Path) -> Iterator[Report]:
    """What the manifests of one folder name."""
    from shimmy.discovery.scan import list_folder, unreadable

    report, entries = list_folder(folder, NAME)
    yield report
    manifests = folder / "manifests"
    if manifests not in entries:
        return
    failures: list[OSError] = []
    for where, inside, names in os.walk(manifests, onerror=failures.append):
        inside.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield _model(Path(where, name), folder)
    for error in failures:
        yield unreadable(error, NAME)


def _model(manifest: Path, folder: Path) -> FoundModel | Skipped:
    """The model a manifest names."""
    from shimmy.discovery.records import FoundModel, Skipped
    from shimmy.discovery.scan import unreadable

    place = manifest.relative_to(folder / "manifests").parts
    if len(place) < LEAST_PARTS:
        return Skipped(manifest, NAME, "it lies where no manifest should: expected HOST/NAMESPACE/MODEL/TAG.")
    try:
        blob = _blob(_read(manifest), folder)
    except OSError as error:
        return unreadable(error, NAME, manifest)
    except ValueError as error:
        return Skipped(manifest, NAME, f"{error}.")
    *namespace, model, tag = place
    hidden = _hidden(namespace)
    name = "/".join((*namespace[len(hidden) :], model))
    aliases = (name,) if tag == DEFAULT_TAG else ()
    return FoundModel(f"{name}:{tag}", blob, NAME, aliases, namespace="/".join(hidden) or NAME)


def _hidden(namespace: list[str]) -> list[str]:
    """What of HOST/NAMESPACE is left out of a model's name."""
    default = [DEFAULT_HOST, DEFAULT_NAMESPACE]
    return default if namespace == default else namespace[:1] if namespace[0] == DEFAULT_HOST else []


def _read(manifest: Path) -> list[Any]:
    """The layers of a manifest."""
    with manifest.open("rb") as file:
        content = file.read(MOST_BYTES)
    try:
        layers = json.loads(content)["layers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("it is no manifest: expected a JSON object with 'layers'") from None
    if not isinstance(layers, list):
        raise ValueError(f"it is no manifest: 'layers' is {type(layers).__name__}, expected a list")
    return layers


def _blob(layers: list[Any], folder: Path) -> Path:
    models = [layer for layer in layers if isinstance(layer, dict) and layer.get("mediaType") == MODEL_LAYER]
    if len(models) != 1:
        raise ValueError(f"it has {len(models)} layers that are GGUF models, expected one")
    digest = models[0].get("digest")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ValueError(f"its model's digest is {digest!r:.80}, expected 'sha256:' and 64 digits")
    blob = folder / "blobs" / f"sha256-{match[1]}"
    if not blob.is_file():
        raise ValueError(f"its model, {blob}, is missing: pull it again")
    return blob


def load() -> DiscoverySource:
    return Ollama()


@hookimpl
def register_discovery_sources(register: Callable[[DiscoverySourceSpec], None]) -> None:
    register(DiscoverySourceSpec(NAME, load))
