"""A camera that is watched at night: what `yolo-wnlb watch` averages, detects, follows and writes."""
