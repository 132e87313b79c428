"""What kernels compute with: vectors of 16 values, loads and stores, half precision, masks of bits."""
