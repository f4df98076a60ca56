"""What a misspelt name was probably meant to be."""

import pytest

from yolo_wnlb.words import suggestion

NAMES = ["n2v", "features", "instances", "L2"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("N2V", "n2v"),
        ("Instances", "instances"),
        ("INSTANCE", "instances"),
        ("l2", "L2"),
        ("feature", "features"),
        ("alpha", None),
        (7, None),
        (None, None),
        ([], None),
    ],
)
def test_a_slip_is_told_whatever_its_capitals(name, meant):
    assert suggestion(name, NAMES) == (f" (did you mean {meant!r}?)" if meant else "")
