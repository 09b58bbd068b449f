"""Heads: observation encoder plus generative model; one file a head, over shared borders, training and disk formats."""
