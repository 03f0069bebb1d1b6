// How the cells are laid out. No Python here.
#pragma once
#include <cstdint>

namespace harmonax {

// An array that belongs to the caller and must outlive the view.
template <typename T>
struct View {
    const T* data = nullptr;
    int64_t size = 0;
    const T& operator[](int64_t i) const { return data[i]; }
};

// tile.hpp says what segments and grains are; cells/native.py makes the arrays.
struct Plan {
    int64_t n_levels = 0, n_variables = 0;
    int64_t n_covariates = 0;        // numeric columns, the last ones of Z
    View<int64_t> order;             // n_cells; empty for cells in a file, which lie there in order
    View<int64_t> segment_start;     // n_segments + 1
    View<int32_t> segment_joint;     // n_segments
    View<int32_t> segment_block;     // n_segments
    View<int32_t> joint_levels;      // n_joint x n_variables
    View<int64_t> block_segment;     // n_blocks + 1
    View<int64_t> block_grain;       // n_blocks + 1
    View<int64_t> grain_segment;     // n_grains + 1
    View<int64_t> segments_by_joint; // n_segments: segments ordered by joint level
    View<int64_t> unit_segment;      // n_units + 1, into segments_by_joint: the pieces of work of `moments`

    // Sizes, which `check` takes from the arrays.
    int64_t n_cells = 0, n_joint = 0, n_blocks = 0, n_segments = 0, n_grains = 0, n_units = 0;

    // Everything that the kernels index by is within its range; throws std::invalid_argument that names the array.
    void check();
};

// `order` holds each of 0 .. n_cells - 1 once; throws std::invalid_argument.
void check_order(View<int64_t> order, int64_t n_cells);

} // namespace harmonax
