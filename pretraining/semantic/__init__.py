"""Semantic Genesis: discovery, classification and restoration of anatomical patterns."""
