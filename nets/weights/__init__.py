"""Weights of other programs and our own: read, match, adapt, report, export."""
