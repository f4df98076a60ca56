"""`python -m yolo_wnlb` is `yolo-wnlb`."""

import os
import sys  # no others, which might be imported from the folder where the user stands; these two are loaded already

if __name__ == "__main__":  # and not in a spawned worker, which imports this module under another name
    # `-m` lets modules be imported from the folder where the user stands: a pathlib.py or an ultralytics.py lying there
    # would be run. The folder stays only if this package itself is found through it. (What Python imports to carry out
    # `-m` is beyond our reach; the command yolo-wnlb has no such folder on its path.)
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    if sys.path[:1] == [os.getcwd()] and home != os.path.realpath(os.getcwd()):  # noqa: PTH109
        del sys.path[0]

    from yolo_wnlb.cli import main

    sys.exit(main())
