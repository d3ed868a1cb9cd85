"""Kill convert, release, validate and publish at random moments, and check what each leaves behind.

    python benchmarks/kills.py [--kills 220] [--seed 0] [--only NAME ...]

Each kill is one signal or two (SIGKILL, SIGINT, SIGTERM, SIGHUP, and pairs of them). Afterwards the destination must
hold either the old or the new contents, and no other file may be left; after SIGKILL, none may be left after the next
run. The Hub runs on this machine. The exit status is 1 if anything else was found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

SHARES = {"convert": 0.4, "publish": 0.25, "release": 0.2, "validate": 0.15}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=220, help="in total, over all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(SHARES), default=list(SHARES))
    options = parser.parse_args()
    from support.hub_writes import WritableHub
    from support.killing import WAYS, Scenes, killed

    faults = 0
    print(f"ways: {', '.join(WAYS)}")
    print(f"{'command':10} {'kills':>5} {'too late':>8} {'old':>5} {'new':>5} {'faults':>6} {'seconds':>8}")
    with tempfile.TemporaryDirectory(prefix="kills-") as work, WritableHub() as hub:
        scenes = Scenes(Path(work))
        for name in options.only:
            trial = scenes.publish(hub) if name == "publish" else getattr(scenes, name)()
            begun = time.monotonic()
            found = killed(trial, max(8, round(options.kills * SHARES[name])), seed=options.seed)
            row = f"{name:10} {found.kills:5} {found.too_late:8} {found.old:5} {found.new:5} {len(found.faults):6}"
            print(f"{row} {time.monotonic() - begun:8.0f}", flush=True)
            for fault in found.faults:
                print(f"    {fault}", flush=True)
            faults += len(found.faults)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
