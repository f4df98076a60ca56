"""A RAW file that tests write themselves: the smallest DNG that LibRaw develops."""

import struct
from pathlib import Path

import numpy as np

TO_CAMERA = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)  # XYZ to linear sRGB
FORMATS = {1: "B", 3: "H", 4: "I"}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 10: 8}


def write_dng(file, mosaic, black=256, white=4095, orientation=1, neutral=(0.5, 1.0, 0.6)):
    """Write a mosaic RGGB of a 12-bit sensor, uint16 (H, W), as an uncompressed DNG; returns the file."""
    height, width = mosaic.shape
    strip = mosaic.astype("<u2").tobytes()

    def rational(values, sign="I"):
        return b"".join(struct.pack(f"<{sign}{sign}", round(10000 * value), 10000) for value in values)

    tags = [  # number, type, values; None where the strip begins
        (254, 4, [0]),
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [16]),
        (259, 3, [1]),
        (262, 3, [32803]),  # colour filter array
        (271, 2, b"Test\0"),
        (272, 2, b"Camera\0"),
        (273, 4, None),
        (274, 3, [orientation]),
        (277, 3, [1]),
        (278, 4, [height]),
        (279, 4, [len(strip)]),
        (284, 3, [1]),
        (33421, 3, [2, 2]),
        (33422, 1, bytes([0, 1, 1, 2])),
        (50706, 1, bytes([1, 4, 0, 0])),  # DNGVersion
        (50707, 1, bytes([1, 1, 0, 0])),
        (50708, 2, b"Test Camera\0"),
        (50714, 3, [black]),
        (50717, 3, [white]),
        (50721, 10, rational(TO_CAMERA, "i")),
        (50728, 5, rational(neutral)),  # AsShotNeutral
        (50778, 3, [21]),
    ]
    entries, stored = b"", b""
    start = 8 + 2 + 12 * len(tags) + 4
    apart = [len(values) for _, _, values in tags if isinstance(values, bytes) and len(values) > 4]
    length = sum(size + size % 2 for size in apart)
    for number, kind, values in tags:
        values = [start + length] if values is None else values
        content = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{FORMATS[kind]}", *values)
        place = content.ljust(4, b"\0")
        if len(content) > 4:
            place = struct.pack("<I", start + len(stored))
            stored += content + b"\0" * (len(content) % 2)
        entries += struct.pack("<HHI", number, kind, len(content) // SIZES[kind]) + place
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + stored + strip
    Path(file).write_bytes(content)
    return Path(file)


def mosaic_of(height=48, width=64, stops=-6, black=256, white=4095):
    """A mosaic whose light rises from left to right up to so many stops below the saturation of a 12-bit sensor."""
    light = np.linspace(0, 2.0**stops, width) * (white - black)
    return np.broadcast_to(np.rint(black + light), (height, width)).astype(np.uint16)
