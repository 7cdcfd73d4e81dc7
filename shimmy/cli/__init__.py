"""The ``shimmy`` command. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.

This module stays light: ``--version`` answers, and a clash of packages is noticed, before any
library is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from shimmy import __version__

#: Exit codes besides 0: something failed; usage or configuration is wrong; Ctrl-C.
FAILURE, WRONG_USAGE, INTERRUPTED = 1, 2, 130

CLASH = """\
error: this environment also holds the unrelated distribution {name!r}, whose import package has the same \
name as ours; files of the two are mixed.
hint: pip uninstall shimmy && pip install --force-reinstall shimmy-llm"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        open_standard_streams()
        code = _run(arguments)
        # Here, where it can still be told that nothing more can be written.
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _give_up_output()
        if not isinstance(error, BrokenPipeError):  # else the reader has seen enough
            print(f"error: {error.strerror}: {error.filename or 'the output'}.", file=sys.stderr)
        return FAILURE


def _run(arguments: Sequence[str] | None) -> int:
    # Not list(): once imported, the submodule of that name hides the builtin in this package.
    arguments = tuple(sys.argv[1:] if arguments is None else arguments)
    if name := foreign_shimmy(sys.path):
        print(CLASH.format(name=name), file=sys.stderr)
        return WRONG_USAGE
    if arguments in (("--version",), ("-V",)):
        print(f"shimmy {__version__}")
        return 0
    if "serve" in arguments and "--help" not in arguments:
        return _serve_early(arguments)
    from shimmy.cli.app import run

    return run(arguments)


def _serve_early(arguments: Sequence[str]) -> int:
    """Run with an engine worker under way, while this process still imports its command line."""
    from shimmy.engine.launch import early_start

    with early_start() as early:
        from shimmy.cli.app import run

        return run(arguments, early)


def open_standard_streams() -> None:
    """Standard streams that are closed lead nowhere from now on.

    Else a socket or pipe would take their numbers, and a worker would inherit it as its own.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _give_up_output() -> None:
    """Python writes what is left when it ends, and would complain again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
