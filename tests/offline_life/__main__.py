"""`python -m tests.offline_life --seeds 200`: one line a seed, a summary; stops at the first that is not well.

Fails, too, where people were asked about more than a twentieth of all concurrent edits."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .checks import AUTOMATIC, automatic
from .run import life
from .world import Violation


def main() -> int:
    """Live lives."""
    parser = argparse.ArgumentParser(prog="python -m tests.offline_life", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many lives")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--every", type=int, default=1, help="take each so-manieth booking alone")
    parser.add_argument("--pace", type=float, default=1.0, help="so many times as long between syncs")
    parser.add_argument("--verbose", action="store_true", help="what people did, too")
    asked = parser.parse_args()
    operations = syncs = 0
    policies: Counter[str] = Counter()
    for seed in range(asked.first, asked.first + asked.seeds):
        begun = time.process_time()
        try:
            figures = life(seed, days=asked.days, every=asked.every, pace=asked.pace)
        except Violation as violation:
            print(f"seed {seed}: {violation}", file=sys.stderr)
            again = f"--first {seed} --seeds 1 --days {asked.days} --every {asked.every} --pace {asked.pace}"
            print(f"again: python -m tests.offline_life {again}", file=sys.stderr)
            return 1
        print(f"seed {seed}: {figures.line()}; {time.process_time() - begun:.1f} CPU s", flush=True)
        if asked.verbose:
            for name, count in sorted(figures.counts.items()):
                print(f"  {name}: {count}")
        operations += figures.operations
        syncs += figures.syncs
        policies.update(figures.policies)
    share = automatic(policies)
    print(
        f"{asked.seeds} lives: {operations} operations, {syncs} syncs, {policies.total()} concurrent edits, "
        f"{share:.2%} automatic"
    )
    return 0 if share > AUTOMATIC else 1


if __name__ == "__main__":
    sys.exit(main())
