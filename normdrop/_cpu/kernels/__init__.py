"""The kernels, and the loops and operations they consist of."""
