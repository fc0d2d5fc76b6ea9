"""Patches for training and whole volumes for validation, through NVIDIA DALI."""
