"""Detectors behind one interface: names(weights), describe(weights, ...), predict(weights, images, classes, ...).

`predict` returns COCO results (`yolo_wnlb.data.coco`) with masks at the size of the image files, so that
`yolo_wnlb.metrics.average_precision` never sees a model.
"""
