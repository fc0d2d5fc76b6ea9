"""A 3x3x3 convolution of our own for full resolution on CUDA, where a measurement on the device says that it wins."""
