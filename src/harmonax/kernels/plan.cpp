#include "plan.hpp"

#include <stdexcept>
#include <string>
#include <vector>

namespace harmonax {
namespace {

[[noreturn]] void bad(const char* array, const std::string& why) {
    throw std::invalid_argument(std::string(array) + " " + why);
}

template <typename T>
void check_size(const char* name, View<T> array, int64_t size) {
    if (array.size != size)
        bad(name, "has " + std::to_string(array.size) + " values; it must have " + std::to_string(size));
}

template <typename T>
void check_range(const char* name, View<T> array, int64_t stop) {
    for (int64_t i = 0; i < array.size; ++i)
        if (array[i] < 0 || array[i] >= stop)
            bad(name, "has " + std::to_string(array[i]) + " at " + std::to_string(i) + "; allowed are 0 to " +
                          std::to_string(stop - 1));
}

// Bounds of pieces: from 0 to `stop`, ascending; none of the pieces is empty unless `may_be_empty`.
void check_bounds(const char* name, View<int64_t> bounds, int64_t stop, bool may_be_empty) {
    if (bounds.size < 1) bad(name, "is empty; it must begin with 0");
    if (bounds[0] != 0) bad(name, "begins with " + std::to_string(bounds[0]) + "; it must begin with 0");
    for (int64_t i = 1; i < bounds.size; ++i)
        if (bounds[i] < bounds[i - 1] || (bounds[i] == bounds[i - 1] && !may_be_empty))
            bad(name,
                "has " + std::to_string(bounds[i]) + " after " + std::to_string(bounds[i - 1]) + "; it must ascend");
    if (bounds[bounds.size - 1] != stop)
        bad(name,
            "ends with " + std::to_string(bounds[bounds.size - 1]) + "; it must end with " + std::to_string(stop));
}

void check_permutation(const char* name, View<int64_t> array, int64_t size) {
    check_size(name, array, size);
    check_range(name, array, size);
    std::vector<bool> seen(size);
    for (int64_t i = 0; i < size; ++i) {
        if (seen[array[i]]) bad(name, "has " + std::to_string(array[i]) + " twice; each may occur once");
        seen[array[i]] = true;
    }
}

// Segments are those of their block, and grains too.
void check_blocks(const Plan& p) {
    check_bounds("block_segment", p.block_segment, p.n_segments, true);
    check_bounds("block_grain", p.block_grain, p.n_grains, true);
    check_bounds("grain_segment", p.grain_segment, p.n_segments, false);
    for (int64_t g = 0; g < p.n_blocks; ++g) {
        if (p.grain_segment[p.block_grain[g]] != p.block_segment[g])
            bad("block_grain", "and block_segment begin block " + std::to_string(g) + " at different segments");
        for (int64_t s = p.block_segment[g]; s < p.block_segment[g + 1]; ++s)
            if (p.segment_block[s] != g)
                bad("segment_block", "has " + std::to_string(p.segment_block[s]) + " at " + std::to_string(s) +
                                         ", which block_segment counts to block " + std::to_string(g));
    }
}

// Units are pieces of one joint level, and a level's units are neighbours: threads add to its sums by that.
void check_units(const Plan& p) {
    check_permutation("segments_by_joint", p.segments_by_joint, p.n_segments);
    auto joint = [&](int64_t i) { return p.segment_joint[p.segments_by_joint[i]]; };
    for (int64_t i = 1; i < p.n_segments; ++i)
        if (joint(i) < joint(i - 1)) bad("segments_by_joint", "is not ordered by joint level");
    check_bounds("unit_segment", p.unit_segment, p.n_segments, false);
    for (int64_t u = 0; u < p.n_units; ++u)
        if (joint(p.unit_segment[u]) != joint(p.unit_segment[u + 1] - 1))
            bad("unit_segment", "has a unit of several joint levels");
}

} // namespace

void Plan::check() {
    if (n_variables < 1) bad("joint_levels", "has no column; it must have one for each variable");
    n_segments = segment_joint.size;
    n_joint = joint_levels.size / n_variables;
    n_blocks = block_segment.size - 1;
    n_grains = grain_segment.size - 1;
    n_units = unit_segment.size - 1;
    if (n_blocks < 1) bad("block_segment", "has no block; it must have at least 2 values");
    // A level is one of some joint level, so this also bounds the tables.
    if (n_levels < 1 || n_levels > joint_levels.size)
        throw std::invalid_argument("n_levels is " + std::to_string(n_levels) +
                                    "; allowed are 1 to the size of joint_levels");
    check_range("joint_levels", joint_levels, n_levels);
    if (n_covariates < 0) throw std::invalid_argument("n_covariates is negative");
    check_size("segment_start", segment_start, n_segments + 1);
    check_bounds("segment_start", segment_start, segment_start[n_segments], false);
    n_cells = segment_start[n_segments];
    check_range("segment_joint", segment_joint, n_joint);
    check_size("segment_block", segment_block, n_segments);
    check_range("segment_block", segment_block, n_blocks);
    check_size("block_grain", block_grain, n_blocks + 1);
    check_blocks(*this);
    check_units(*this);
    if (order.size) check_order(order, n_cells);
}

void check_order(View<int64_t> order, int64_t n_cells) { check_permutation("order", order, n_cells); }

} // namespace harmonax
