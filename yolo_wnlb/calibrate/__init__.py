"""The noise of a camera from its own pictures: what `yolo-wnlb calibrate` measures, fits and writes."""
