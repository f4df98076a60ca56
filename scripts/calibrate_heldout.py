"""How far a calibrated camera is from pictures that it was not fitted to, beside the presets.

    python scripts/calibrate_heldout.py --fit night-facades/images/train --measure night-facades/images/val
    python scripts/calibrate_heldout.py --fit burst-a --measure burst-b --still

Fits the camera to one half of the pictures and prints the octaves between the noise of the other half and that of
the fit and of each preset: the mean over brightness of |log2| of the ratio of standard deviations. Split by place, or
the halves show the same walls. With --still both hold pairs or bursts of still scenes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from yolo_wnlb.calibrate.calibrate import calibrate
from yolo_wnlb.calibrate.report import shown
from yolo_wnlb.commands.options import response
from yolo_wnlb.imaging.camera import PRESETS


def main() -> int:
    """Read the command line, fit, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", nargs="+", required=True, metavar="FOLDER", help="pictures to fit to")
    parser.add_argument("--measure", nargs="+", required=True, metavar="FOLDER", help="pictures to measure on")
    parser.add_argument("--still", action="store_true", help="both are pairs or bursts of still scenes")
    parser.add_argument("--crf", type=response, default="srgb", help="response of the camera, as calibrate takes it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            fitted, other = (
                calibrate(
                    **{"still" if args.still else "sources": sources}, out=Path(folder) / f"{name}.yaml", crf=args.crf
                )
                for name, sources in (("fit", args.fit), ("measure", args.measure))
            )
        except (ValueError, OSError) as error:
            print(f"calibrate_heldout: {error}", file=sys.stderr)
            return 2
    print(f"| octaves | calibrated | {' | '.join(PRESETS)} | fitted to the same pictures |")
    print("|---" * (len(PRESETS) + 3) + "|")
    distances = [other.fit.octaves(fitted.fit.noise), *(other.noise[name] for name in PRESETS), other.noise["fit"]]
    print(f"| noise | {' | '.join(map(shown, distances))} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
