"""Frames are identified by number whatever the order, the GOP, B-frames, drift or gaps; damage is named."""

import copy
import os
from fractions import Fraction

import av
import numpy as np
import pytest

from robopolicy.core.errors import DatasetError
from robopolicy.datasets.video import VideoStore, resize_rgb
from robopolicy.testing.tiny_video import available_encoder, encode, join

FPS = 10
N = 60


def levels(n, offset=0):
    """Frames ``(n, 32, 32, 3)`` whose brightness tells their number."""
    return np.stack([np.full((32, 32, 3), 10 + 3 * ((k + offset) % 80), np.uint8) for k in range(n)])


def numbers(images):
    return [round((float(i.mean()) - 10) / 3) for i in images]


def write(path, options, codec="libx264", n=N):
    with av.open(str(path), "w") as out:
        stream = out.add_stream(available_encoder(codec), rate=FPS, options=options)
        stream.bit_rate = 4_000_000  # mpeg4 would blur the levels into one another
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for k, image in enumerate(levels(n)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "2", "bf": "0", "crf": "5"}),
        ("libx264", {"g": "250", "bf": "3", "crf": "5"}),
        ("libx264", {"g": "12", "bf": "2", "crf": "5", "x264-params": "open-gop=1"}),
        ("mpeg4", {"g": "12", "bf": "2", "qmax": "2"}),
    ],
    ids=["gop2", "one-gop-b-frames", "open-gop", "mpeg4-b-frames"],
)
def test_any_order_gives_the_frame_asked_for(tmp_path, codec, options):
    path = write(tmp_path / "v.mp4", options, codec)
    store = VideoStore(FPS)
    order = np.random.default_rng(0).integers(0, N, 50)
    assert numbers(store.read(path, order / FPS)) == order.tolist()
    assert numbers(store.read(path, np.arange(N) / FPS)) == list(range(N))
    assert numbers(store.read(path, np.array([N - 1, 0, N - 1]) / FPS)) == [N - 1, 0, N - 1]
    assert store.max_error_s < 1e-3
    assert store.frame_count(path) == N


def test_frames_of_joined_files(tmp_path):
    parts = [tmp_path / f"{i}.mp4" for i in range(3)]
    for i, part in enumerate(parts):
        encode(part, levels(20, 20 * i), FPS)
    starts = join(parts, tmp_path / "all.mp4", FPS)
    assert starts == [0.0, 2.0, 4.0]
    store = VideoStore(FPS)
    for i, start in enumerate(starts):
        assert numbers(store.read(tmp_path / "all.mp4", start + np.arange(20) / FPS)) == [20 * i + k for k in range(20)]


@pytest.mark.parametrize("late", [0.3, 0.5, 0.7, 1.0])
def test_a_later_episode_may_start_between_frames(tmp_path, late):
    # Joining by container durations puts an episode's first frame a part of a frame too late; its start says so too.
    path = tmp_path / "drift.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(available_encoder(), rate=1000, options={"g": "2", "bf": "0", "crf": "5"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for k, image in enumerate(levels(40)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(100 * (k + (late if k >= 20 else 0))), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    store = VideoStore(FPS)
    begin = (20 + late) / FPS
    assert numbers(store.read(path, begin + np.arange(20) / FPS)) == list(range(20, 40))
    assert numbers(store.read(path, np.arange(20) / FPS)) == list(range(20))


@pytest.mark.parametrize("shift", [-0.4, -0.2, 0.2, 0.4])
def test_the_nearest_frame_is_taken_when_the_start_is_a_little_wrong(tmp_path, shift):
    path = write(tmp_path / "v.mp4", {"g": "6", "bf": "0", "crf": "5"})
    store = VideoStore(FPS)
    order = np.random.default_rng(1).integers(1, N - 1, 30)
    assert numbers(store.read(path, (order + shift) / FPS)) == order.tolist()
    assert numbers(store.read(path, (np.arange(1, N - 1) + shift) / FPS)) == list(range(1, N - 1))
    assert store.max_error_s == pytest.approx(abs(shift) / FPS, rel=0.01)


def test_a_video_of_a_higher_rate_than_the_dataset(tmp_path):
    path = write(tmp_path / "v.mp4", {"g": "6", "bf": "0", "crf": "5"})
    assert numbers(VideoStore(FPS / 3).read(path, np.arange(0, N, 3) / FPS)) == list(range(0, N, 3))


def test_two_readings_of_one_store_do_not_disturb_each_other(tmp_path):
    paths = [write(tmp_path / f"{i}.mp4", {"g": "6", "crf": "5"}, n=20) for i in range(2)]
    store = VideoStore(FPS, max_open=1)
    pairs = zip(*(store.read(path, np.arange(5) / FPS) for path in paths), strict=True)
    assert [(numbers([a])[0], numbers([b])[0]) for a, b in pairs] == [(k, k) for k in range(5)]


def test_a_frame_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path / "v.mp4", {"g": "2"}, n=30)
    store = VideoStore(FPS)
    with pytest.raises(DatasetError, match=r"v\.mp4: no frame at 3\.000 s \(frame 30\).*the file has 30 frames"):
        list(store.read(path, np.array([2.9, 3.0])))
    assert numbers(store.read(path, np.array([0.5]))) == [5]


def test_damaged_and_missing_files_are_named(tmp_path):
    path = write(tmp_path / "v.mp4", {"g": "2"})
    store = VideoStore(FPS)
    with pytest.raises(DatasetError, match=r"none\.mp4: the video cannot be opened"):
        list(store.read(tmp_path / "none.mp4", np.array([0.0])))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"v\.mp4: the video cannot be opened"):
        list(store.read(path, np.array([0.0])))


def test_few_containers_stay_open(tmp_path):
    paths = [write(tmp_path / f"{i}.mp4", {"g": "2"}, n=4) for i in range(6)]
    store = VideoStore(FPS, max_open=2)
    before = len(os.listdir("/proc/self/fd"))
    for path in paths:
        assert numbers(store.read(path, np.array([0.1]))) == [1]
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    store.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_store_travels_to_another_process(tmp_path):
    path = write(tmp_path / "v.mp4", {"g": "2"}, n=6)
    store = VideoStore(FPS, max_open=3)
    list(store.read(path, np.array([0.0])))
    twin = copy.deepcopy(store)  # the same protocol as sending it to a worker
    assert twin.max_open == 3
    assert numbers(twin.read(path, np.array([0.3]))) == [3]


def test_resizing():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 4:] = 200
    small = resize_rgb(image, (2, 4))
    assert small.shape == (2, 4, 3)
    assert small[0, :, 0].tolist() == [0, 0, 200, 200]
    assert resize_rgb(image, (4, 8)) is image
    assert resize_rgb(image, (8, 16)).shape == (8, 16, 3)
