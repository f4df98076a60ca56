"""A picture in, a picture out: the low-light camera, and sheets that show pictures. NumPy and OpenCV alone."""
