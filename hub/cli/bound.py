"""`python -m hub.cli.bound PID MODULE [ARGUMENT...]`: runs a module that ends when the process PID, its parent, ends.

However that ends, by SIGKILL too: nothing that a demonstration started outlives it. Where the kernel has no such bond
(it is Linux's), the module simply runs.
"""

from __future__ import annotations

import os
import sys

from hub.log.launch import die_with_parent


def main(arguments: list[str]) -> None:
    """Bind this process, then become the module."""
    parent, *module = arguments
    if sys.platform == "linux":
        die_with_parent(int(parent))
    os.execv(sys.executable, [sys.executable, "-m", *module])


if __name__ == "__main__":
    main(sys.argv[1:])
