"""Denoiser networks: the conditional 1-D U-Net and the transformer, and the blocks they are made of."""
