"""A look at JPEG bytes without decoding them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from robopolicy.core.errors import InvalidObservation
from robopolicy.real_robot.control.observations import Frame
from robopolicy.real_robot.driver.pictures import decode, jpeg_shape, picture_problem

RGB = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def written(kind=".jpg", rgb=RGB, *options):
    return cv2.imencode(kind, rgb[..., ::-1], options)[1].tobytes()


@pytest.mark.parametrize(
    "options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)], ids=str
)
def test_the_size_is_read_from_the_header(options):
    data = written(".jpg", RGB, *options)
    assert jpeg_shape(data) == (24, 40, 3)
    assert jpeg_shape(data + bytes(8)) == (24, 40, 3)  # padding
    assert picture_problem("jpeg", data, (24, 40)) is None


def test_F16_what_is_no_picture_of_the_set_up_says_what_it_is():
    data = written()
    assert "24 x 40, expected 40 x 24" in picture_problem("jpeg", data, (40, 24))
    assert "it sends PNG" in picture_problem("png", written(".png"), (24, 40))
    assert "1 colour" in picture_problem("jpeg", written(".jpg", RGB[..., :1]), (24, 40))
    assert "no whole JPEG" in picture_problem("jpeg", data[: len(data) // 2], (24, 40))
    for broken in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xe0\x00\x00" * 40 + b"\xff\xd9"):
        assert jpeg_shape(broken) is None
    for end in range(9, 20):  # a header of a frame, cut off anywhere
        shape = jpeg_shape(b"\xff\xd8\xff\xc0\x00\x11\x08" + bytes(end - 9) + b"\xff\xd9")
        assert (shape is None) == (end < 12)
    rng = np.random.default_rng(1)
    for _ in range(300):  # never raises, never hangs
        jpeg_shape(b"\xff\xd8" + rng.integers(0, 256, 60, np.uint8).tobytes() + b"\xff\xd9")


def test_decoding_gives_red_green_blue_of_the_right_size():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    picture = decode(Frame(0.0, written(".jpg", red)), (16, 16))
    assert picture.dtype == np.uint8
    assert picture[..., 0].min() > 240
    assert picture[..., 1:].max() < 15
    assert decode(Frame(0.0, red)) is red
    with pytest.raises(InvalidObservation, match="16 x 16, expected 8 x 8"):
        decode(Frame(0.0, written(".jpg", red)), (8, 8))
    with pytest.raises(InvalidObservation, match="cannot be decoded"):
        decode(Frame(0.0, b"\xff\xd8rubbish"))
