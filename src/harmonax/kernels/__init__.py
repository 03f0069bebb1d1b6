"""The native module: tile kernels for every instruction set (tile.inl), the cells that use them (cells.cpp), how the
cells are laid out (plan.cpp), the ridge of several batch variables (ridge.cpp), and what Python sees (bindings.cpp)."""
