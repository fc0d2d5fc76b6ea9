"""Encoders that the dynamic U-Net can host."""
