"""Recipes: a chain from a scan to a case, and its way back."""
