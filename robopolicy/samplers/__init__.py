"""Samplers: one small file each, one signature ``sampler(denoise, path, times, z, tape=None) -> z0``."""

from robopolicy.samplers.base import Denoiser, Sampler
from robopolicy.samplers.registry import SAMPLERS, make_sampler

__all__ = ["SAMPLERS", "Denoiser", "Sampler", "make_sampler"]
