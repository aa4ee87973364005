"""The command line, `hub`."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, or say what it needs: the SDK installs without the server."""
    try:
        from hub.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("hub", "schemas", "consumers"):
            raise
        print(
            f"error: {error.name} is not installed. Install the server with: pip install 'hotel-event-hub[hub]'",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(run())
