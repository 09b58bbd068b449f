"""MP4 films of episodes with the verdict drawn in, so that picture and record cannot disagree unnoticed.

Frame i shows the state after i actions (frame 0 is the reset).  Under the picture stand the task, the episode and its
seed, the step, and whether the success predicate has held; the caption turns green with the first success frame.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robopolicy.sim.pool import Episode, EpisodeResult, Film
from robopolicy.sim.pool_slots import Reply

CAPTION = 52  # height of the caption in pixels
RUNNING, SOLVED = (38, 42, 51), (22, 120, 66)  # caption colours; tests tell the state of a frame by them
INK, DIM = (245, 246, 248), (190, 196, 206)
TILE = 192  # width of one film in the grid
GAP = 2  # pixels between films there


class VideoWriter:
    """H.264 (yuv420p, plays in browsers) written frame by frame to ``path``; a context manager."""

    def __init__(self, path: Path, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Append one ``(H, W, 3)`` uint8 frame (odd sizes lose a row or column, as 4:2:0 needs even ones)."""
        frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "23", "preset": "veryfast", "threads": "1"}
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Flush and finish the file."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def captioned(picture: np.ndarray, task: str, left: str, state: str, solved: bool) -> np.ndarray:
    """``picture`` ``(H, W, 3)`` with a caption of ``CAPTION`` rows: task above, ``left`` and ``state`` below."""
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + CAPTION), SOLVED if solved else RUNNING)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((8, height + 5), _fitted(draw, task, width - 16), font=_font(14), fill=INK)
    draw.text((8, height + 28), left, font=_font(13), fill=DIM)
    draw.text((width - 8, height + 28), state, font=_font(13), fill=INK, anchor="ra")
    return np.asarray(canvas)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    if draw.textlength(text, font=_font(14)) <= width:
        return text
    while text and draw.textlength(text + "...", font=_font(14)) > width:
        text = text[:-1]
    return text.rstrip() + "..."


class EpisodeFilm:
    """The film of one episode while it runs."""

    def __init__(self, path: Path, task: str, fps: float, episode: Episode) -> None:
        self.path, self._task, self._episode = path, task, episode
        self._aside = path.with_name(f".partial-{path.name}")
        self._writer = VideoWriter(self._aside, fps)
        self._step = 0
        self._first_success: int | None = None

    def add(self, reply: Reply) -> None:
        """Append the frames of one command."""
        offset = len(reply.frames) - len(reply.successes)  # 1 for the reset, which is no step
        for i, frame in enumerate(reply.frames):
            if i >= offset:
                self._step += 1
                if self._first_success is None and reply.successes[i - offset]:
                    self._first_success = self._step
            self._writer.add(self._draw(frame))

    def finish(self, keep: bool) -> None:
        """Close; the file appears under its name only when ``keep``."""
        self._writer.close()
        if keep:
            self._aside.replace(self.path)
        else:
            self._aside.unlink()

    def _draw(self, frame: np.ndarray) -> np.ndarray:
        solved = self._first_success is not None
        state = f"success at step {self._first_success}" if solved else "not solved yet"
        left = f"#{self._episode.index} seed {self._episode.seed} · step {self._step}"
        return captioned(frame, self._task, left, state, solved)


class Videos:
    """Films of the first ``count`` episodes (never a selection by outcome) in ``folder``, and a grid of all."""

    def __init__(self, folder: Path, episodes: Sequence[Episode], count: int, task: str, fps: float, side: int) -> None:
        self._folder, self._task, self._fps = folder, task, fps
        self._films: dict[int, EpisodeFilm] = {}
        self.paths: list[Path] = []
        self.film = Film(frozenset(e.index for e in episodes[:count]), (side, side), self._take)

    def _take(self, episode: Episode, reply: Reply) -> None:
        if not reply.successes:  # a reset: a second one begins the film anew
            self._drop(episode.index)
            path = self._folder / f"episode_{episode.index:04d}.mp4"
            self._films[episode.index] = EpisodeFilm(path, self._task, self._fps, episode)
        self._films[episode.index].add(reply)

    def _drop(self, index: int) -> None:
        old = self._films.pop(index, None)
        if old is not None:
            old.finish(keep=False)

    def finished(self, result: EpisodeResult) -> None:
        """Close the film of a finished episode; one that ended in an error is thrown away."""
        film = self._films.pop(result.index, None)
        if film is not None:
            film.finish(keep=result.status == "ok")
            if result.status == "ok":
                self.paths.append(film.path)

    def close(self) -> None:
        """Throw away what is unfinished and write the grid when there are at least two films."""
        for index in list(self._films):
            self._drop(index)
        self.paths.sort()
        if len(self.paths) > 1:
            write_grid(self.paths, self._folder / "grid.mp4", self._fps)


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames ``(H, W, 3)`` uint8 of a video file, in order."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def write_grid(paths: Sequence[Path], target: Path, fps: float) -> None:
    """All films side by side in one, each standing still at its end until the longest is over."""
    columns = int(np.ceil(np.sqrt(len(paths))))
    readers: list[Iterator[np.ndarray]] = [_tiles(p) for p in paths]
    tiles = [next(r) for r in readers]
    blank = np.full_like(tiles[0], 20)
    with VideoWriter(target, fps) as writer:
        alive = True
        while alive:
            padded = tiles + [blank] * (-len(tiles) % columns)
            rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
            writer.add(np.concatenate(rows, axis=0))
            alive = False
            for i, reader in enumerate(readers):
                tile = next(reader, None)
                if tile is not None:
                    tiles[i], alive = tile, True


def _tiles(path: Path) -> Iterator[np.ndarray]:
    for frame in read_frames(path):
        height = round(frame.shape[0] * TILE / frame.shape[1] / 2) * 2
        tile = np.asarray(Image.fromarray(frame).resize((TILE, height), Image.Resampling.BILINEAR))
        yield np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=20)
