"""`python -m yolo_wnlb` is `yolo-wnlb`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # and not in a spawned worker, which imports this module under another name
    # `-m` lets modules be imported from the folder where the user stands: a types.py or an ultralytics.py lying there
    # would be run. The folder stays only if this package itself is found through it.
    if sys.path[:1] == [str(Path.cwd())] and Path(__file__).resolve().parents[1] != Path.cwd().resolve():
        del sys.path[0]

    from yolo_wnlb.cli import main

    sys.exit(main())
