"""Draws PushT with gym-pusht's own brush, from the bodies' poses and over a background that is drawn once.

Differs from ``PushTEnv._draw`` in cost only (the tests compare every pixel): drawing through the physics space would
show stale shapes before the first step, and touching the space to refresh them changes the dynamics.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import cv2
import numpy as np

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
with warnings.catch_warnings():  # pygame 2.6 imports the deprecated pkg_resources
    warnings.simplefilter("ignore")
    import pygame
    import pymunk
    import pymunk.pygame_util
    from gym_pusht.envs.pusht import PushTEnv
    from gym_pusht.envs.pymunk_override import DrawOptions
    from pymunk.space_debug_draw_options import SpaceDebugColor

TABLE = 512
WALLS = (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506)))
AGENT_RADIUS = 15
_CLEAR = (255, 0, 255)


def _colour(name: str) -> SpaceDebugColor:
    return SpaceDebugColor(*pygame.Color(name))


class Picture:
    """Pictures of the table; goal and walls are drawn once and kept."""

    def __init__(self, goal_pose: Sequence[float]) -> None:
        self._surface = pygame.Surface((TABLE, TABLE), depth=32)
        self._brush = DrawOptions(self._surface)
        self._brush.flags = DrawOptions.DRAW_COLLISION_POINTS
        self._surface.fill((255, 255, 255))
        goal = PushTEnv.get_goal_pose_body(np.asarray(goal_pose, np.float64))
        _, shapes = PushTEnv.add_tee(pymunk.Space(), (0, 0), 0)
        self._parts = [shape.get_vertices() for shape in shapes]
        for part in self._parts:
            corners = [pymunk.pygame_util.to_pygame(goal.local_to_world(v), self._surface) for v in part]
            pygame.draw.polygon(self._surface, pygame.Color("LightGreen"), [*corners, corners[0]])
        grey = _colour("LightGray")
        self._block_colour, self._agent_colour = _colour("LightSlateGray"), _colour("RoyalBlue")
        self._background = self._surface.copy()
        self._surface.fill(_CLEAR)  # the walls lie over everything else
        for a, b in WALLS:
            self._brush.draw_fat_segment(pymunk.Vec2d(*a), pymunk.Vec2d(*b), 2, grey, grey)
        self._walls = self._surface.copy()
        self._walls.set_colorkey(_CLEAR)

    def draw(
        self,
        space: pymunk.Space,
        agent: pymunk.Body,
        block: pymunk.Body,
        size: tuple[int, int],
        target: np.ndarray | None = None,
    ) -> np.ndarray:
        """Picture ``(height, width, 3)`` uint8; ``target`` (pixels of the table) is marked with a red cross."""
        self._surface.blit(self._background, (0, 0))
        for part in self._parts:
            corners = [block.local_to_world(v) for v in part]
            self._brush.draw_polygon(corners, 0, self._block_colour, self._block_colour)
        self._brush.draw_circle(agent.position, agent.angle, AGENT_RADIUS, self._agent_colour, self._agent_colour)
        self._surface.blit(self._walls, (0, 0))
        space.debug_draw(self._brush)  # the contact points, which the published pictures show too
        height, width = size
        # The surface's own memory is rows of blue, green, red, unused: scale first, order the colours of the small one.
        pixels = np.frombuffer(self._surface.get_buffer().raw, np.uint8).reshape(TABLE, TABLE, 4)
        picture = np.ascontiguousarray(cv2.resize(pixels, (width, height))[..., 2::-1])
        if target is not None:
            at = (int(target[0] / TABLE * width), int(target[1] / TABLE * height))
            unit = min(height, width) / 96
            cv2.drawMarker(picture, at, (255, 0, 0), cv2.MARKER_CROSS, int(8 * unit), max(1, int(unit)))
        return picture
