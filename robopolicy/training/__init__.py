"""Training: configuration, the loop, optimiser, EMA, checkpoints, loggers.  Nothing here knows an algorithm."""
