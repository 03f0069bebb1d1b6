"""The native module: tile kernels for every instruction set, and the cells that use them."""
