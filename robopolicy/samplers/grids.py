"""Names of the time grids for users of samplers; the grids themselves belong to the paths (``path.grid``)."""

from robopolicy.paths.grids import DISCRETE_SPACINGS, NOISE_SPACINGS, discrete_grid, noise_grid

__all__ = ["DISCRETE_SPACINGS", "NOISE_SPACINGS", "discrete_grid", "noise_grid"]
