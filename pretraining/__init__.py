"""Pre-training methods, a package each."""
