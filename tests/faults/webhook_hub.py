"""A hub that takes a dead one's lease after a moment, not after six seconds: nobody else is there to hold it."""

from __future__ import annotations

import sys

from hub.cli.main import main
from hub.services import leadership

PATIENCE_S = 0.5
RETRY_S = 0.1

if __name__ == "__main__":
    leadership.PATIENCE_S = PATIENCE_S  # type: ignore[misc]
    leadership.RETRY_S = RETRY_S  # type: ignore[misc]
    sys.exit(main(["serve"]))
