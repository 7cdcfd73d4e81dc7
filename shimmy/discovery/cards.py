"""Model cards, read once per file: remembered by path, size and time of change, also between runs.

A file is read whole, which takes some milliseconds, or by a glance at its metadata, which takes a
tenth of that: then the card lacks what only the table of tensors says. What cannot be read from
or written to the file of remembered cards is done without.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from shimmy import __version__
from shimmy.discovery.kinds import why_not_a_language_model
from shimmy.errors import GGUFError, ModelError
from shimmy.files import replace_file
from shimmy.gguf.card import ModelCard, glance, read_card, why_unreadable
from shimmy.gguf.parts import part_paths
from shimmy.gguf.reader import open_gguf, peek_gguf
from shimmy.registry import Registry
from shimmy.specs import QuantTypeSpec

#: Files that :meth:`CardReader.read_all` reads whole which were not yet, before it only glances.
WHOLE_AT_ONCE = 100
#: Files remembered; the longest known go first.
MOST_CARDS = 10_000

_logger = logging.getLogger(__name__)

State = list[list[int]]
"""Size and time of change of each file of a model."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file says of itself: a card, and why it cannot be used; without a card it is broken."""

    card: ModelCard | None
    problem: str | None

    @property
    def whole(self) -> bool:
        """Whether the file was read to the end of its table of tensors, or as far as it makes sense."""
        return self.card is None or self.card.parameters is not None


class CardReader:
    """Reads and remembers what files say of themselves; safe in threads.

    Args:
        quant_types: names the types of tensors.
        memory: where to remember cards between runs; None: nowhere.
        read_folder: the card of a model folder, which is looked at each time.
    """

    def __init__(
        self,
        quant_types: Registry[QuantTypeSpec],
        memory: Path | None = None,
        read_folder: Callable[[Path], ModelCard] | None = None,
    ) -> None:
        self._quant_types = quant_types
        self._read_folder = read_folder
        self._memory = memory
        self._stamp = [__version__, *quant_types.names()]
        self._lock = threading.RLock()
        self._known: dict[str, tuple[State, FileFacts]] | None = None
        self._changed = False

    def read(self, path: Path) -> FileFacts:
        """The facts about a model, by its (first) file."""
        return self._read(path, whole=True)[0]

    def glance(self, path: Path) -> FileFacts:
        """What is known of a model's file or its metadata say: there may be more to say against it."""
        return self._read(path, whole=False)[0]

    def read_all(self, paths: Iterable[Path]) -> list[FileFacts]:
        """The facts about many models: of the first unknown ones whole, of the others at a glance."""
        left, everything = WHOLE_AT_ONCE, []
        for path in paths:
            facts, anew = self._read(path, whole=left > 0)
            left -= anew and facts.whole
            everything.append(facts)
        return everything

    def _read(self, path: Path, *, whole: bool) -> tuple[FileFacts, bool]:
        """The facts, and whether the file had to be opened for them."""
        if self._read_folder is not None and path.is_dir():
            return _folder_facts(path, self._read_folder), False
        state = [_state(part) for part in part_paths(path)]
        with self._lock:
            if self._known is None:
                self._known = self._recall()
            remembered = self._known.get(str(path))
            if remembered is not None and remembered[0] == state and (remembered[1].whole or not whole):
                return remembered[1], False
            facts = self._open(path, whole=whole)
            self._known[str(path)] = (state, facts)
            self._changed = True
            return facts, True

    def save(self) -> None:
        """Remember for later runs what has been read since the last time."""
        with self._lock:
            if self._memory is None or not self._changed or self._known is None:
                return
            self._changed = False
            kept = {path: entry for path, entry in self._known.items() if entry[1].card is not None}
        entries = {
            path: [state, _fields(facts.card), facts.problem]
            for path, (state, facts) in list(kept.items())[-MOST_CARDS:]
        }
        try:
            content = json.dumps({"stamp": self._stamp, "cards": entries}, default=str)
            replace_file(self._memory, content.encode())
        except OSError as error:
            _logger.debug("model cards are not remembered: %s", error)

    def _open(self, path: Path, *, whole: bool) -> FileFacts:
        try:
            if not whole:
                metadata, size = peek_gguf(path)
                # Of a split model the other parts say how large it is, and whether it is complete.
                if "split.count" not in metadata:
                    return _facts(glance(path, metadata, size), metadata)
            with open_gguf(path, skim=True) as file:
                card = read_card(file, name="", source="", quant_types=self._quant_types)
                facts = _facts(card, file.metadata)
                return replace(facts, problem=facts.problem or why_unreadable(file, self._quant_types))
        except GGUFError as error:
            return FileFacts(None, str(error))

    def _recall(self) -> dict[str, tuple[State, FileFacts]]:
        """What earlier runs remembered; nothing if another version or another choice of plugins did."""
        if self._memory is None:
            return {}
        try:
            remembered = json.loads(self._memory.read_bytes())
            if remembered["stamp"] != self._stamp:
                return {}
            return {path: _entry(*entry) for path, entry in remembered["cards"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            _logger.debug("remembered model cards cannot be used: %s", error)
            return {}


def _folder_facts(path: Path, read: Callable[[Path], ModelCard]) -> FileFacts:
    try:
        return FileFacts(read(path), None)
    except ModelError as error:
        return FileFacts(None, str(error))
    except OSError as error:
        return FileFacts(None, f"{path}: cannot be read: {error.strerror or error}.")


def _facts(card: ModelCard, metadata: Mapping[str, Any]) -> FileFacts:
    return FileFacts(card, why_not_a_language_model(card.architecture, metadata))


def _fields(card: ModelCard | None) -> dict[str, Any]:
    # dataclasses.asdict copies every value, five times as slow.
    return {field.name: getattr(card, field.name) for field in fields(ModelCard)}


def _entry(state: State, card: dict[str, Any], problem: str | None) -> tuple[State, FileFacts]:
    return state, FileFacts(ModelCard(**{**card, "path": Path(card["path"])}), problem)


def _state(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        # Opening it will say what is wrong.
        return []
    return [status.st_size, status.st_mtime_ns]
