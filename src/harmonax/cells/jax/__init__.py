"""Cells on JAX devices, such as GPUs.

cells     `JaxCells`: the cells in tiles of one shape, block by block
tiles     how cells are cut into tiles
kernels   what is computed on the device
"""
