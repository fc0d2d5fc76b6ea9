"""Models Genesis: restoration of corrupted patches."""
