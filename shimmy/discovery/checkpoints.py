"""Checkpoints of trainings: the latest that can be used goes by the training's name.

Sources propose that name for each ``TRAINING/checkpoint-N`` they come across. The catalog leaves it to one
of them, if the training has left no final weights; the others are ``TRAINING@checkpoint-N``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from shimmy.discovery.records import FoundAdapter, FoundModel

_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")

Found = TypeVar("Found", FoundModel, FoundAdapter)


def proposed_name(folder: Path) -> str:
    """What a source calls a folder: as it is, but a checkpoint like its training."""
    return folder.parent.name if _CHECKPOINT.match(folder.name) else folder.name


def checkpoint_name(folder: Path) -> str:
    """What a folder is called that is itself meant: ``tune@checkpoint-500`` if it is a checkpoint."""
    return f"{folder.parent.name}@{folder.name}" if _CHECKPOINT.match(folder.name) else folder.name


def name_checkpoints(found: Sequence[Found], is_usable: Callable[[Found], bool]) -> Iterator[Found]:
    """All that was found, other checkpoints last, under names of their own; paths must be unique.

    Where no checkpoint of a training is usable, the latest stands for it, and for the reason.
    """
    finals = {each.path for each in found}
    trainings: dict[Path, list[Found]] = {}
    for each in found:
        if _CHECKPOINT.match(each.path.name):
            trainings.setdefault(each.path.parent, []).append(each)
    latest = {
        _latest(checkpoints, is_usable).path
        for training, checkpoints in trainings.items()
        if training not in finals
    }
    others = []
    for each in found:
        is_proposal = _CHECKPOINT.match(each.path.name) and each.name == proposed_name(each.path)
        if is_proposal and each.path not in latest:
            others.append(replace(each, name=checkpoint_name(each.path)))
        else:
            yield each
    yield from others


def _latest(checkpoints: Sequence[Found], is_usable: Callable[[Found], bool]) -> Found:
    newest_first = sorted(checkpoints, key=lambda each: _number(each.path), reverse=True)
    if len(newest_first) == 1:
        return newest_first[0]
    return next(filter(is_usable, newest_first), newest_first[0])


def _number(folder: Path) -> int:
    match = _CHECKPOINT.match(folder.name)
    assert match is not None
    return int(match[1])
