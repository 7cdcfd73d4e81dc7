"""``python -m shimmy`` is the ``shimmy`` command."""

import sys

from shimmy.cli import main

if __name__ == "__main__":
    sys.exit(main())
