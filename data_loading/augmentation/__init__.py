"""Augmentation: the order of effects, and one file an effect."""
