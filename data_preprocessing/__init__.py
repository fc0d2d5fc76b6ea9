"""From scans on disk to preprocessed cases: everything that happens once, before training."""
