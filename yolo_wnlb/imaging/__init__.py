"""A picture in, a picture out: the camera and the sheets that pictures are shown on. NumPy and OpenCV alone."""
