"""The ``shimmy`` command. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.

This module stays light: ``--version`` answers, and a clash of packages is noticed, before any
library is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from shimmy import __version__

CLASH = """\
error: this environment also holds the unrelated distribution {name!r}, whose import package has the same \
name as ours; files of the two are mixed.
hint: pip uninstall shimmy && pip install --force-reinstall shimmy-llm"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    # Not list(): once imported, the submodule of that name hides the builtin in this package.
    arguments = tuple(sys.argv[1:] if arguments is None else arguments)
    if name := foreign_shimmy(sys.path):
        print(CLASH.format(name=name), file=sys.stderr)
        return 2
    if arguments in (("--version",), ("-V",)):
        print(f"shimmy {__version__}")
        return 0
    from shimmy.cli.app import run

    return run(arguments)


def foreign_shimmy(folders: Sequence[str]) -> str | None:
    """The installed distribution called plain "shimmy", as "shimmy-1.3.0"; None is good.

    Looks at names of files only: asking importlib.metadata would cost more than all of --version.
    """
    for folder in folders:
        try:
            entries = os.listdir(folder or ".")  # noqa: PTH208
        except OSError:
            continue
        for entry in entries:
            stem, dot, suffix = entry.rpartition(".")
            # Ours is spelled shimmy_llm-VERSION.
            if dot and suffix in ("dist-info", "egg-info") and stem.lower().startswith("shimmy-"):
                return stem
    return None
