"""Detectors behind one interface: names(weights), describe(weights, ...), predict(weights, images, classes, ...).

`predict` returns COCO results (`yolo_wnlb.coco`) with masks at the size of the image files, so that
`yolo_wnlb.evaluate` never sees a model.
"""
