"""Compiling and running kernels: options, threads, the cache, what Numba does not document."""
