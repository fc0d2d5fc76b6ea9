"""The loader's worker side: NumPy and Numba alone."""
