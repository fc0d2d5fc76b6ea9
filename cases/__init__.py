"""What every room agrees on: plan, case on disk, volume and geometry, regions, splits, settings."""
