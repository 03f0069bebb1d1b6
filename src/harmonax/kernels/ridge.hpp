// The ridge correction with several variables: algorithm/ridge.py says what is solved, and why it may be singular.
// No Python here.
#pragma once
#include "parallel.hpp"
#include "plan.hpp"

namespace harmonax {

// Tables as NumPy hands them over, and the anchor's part of the intercept.
struct RidgeSystem {
    View<int32_t> joint_levels; // n_joint x n_variables
    int64_t n_joint, n_variables, n_levels, K, d;
    int64_t largest, first, stop;              // the variable with the most levels, and those
    const double *S, *mass;                    // n_joint x K x d, n_joint x K
    const bool* active;                        // n_joint x K: whether these cells take part
    const double* lambda;                      // n_levels x K
    const bool* keep;                          // n_levels x K
    const double *anchor_moment, *anchor_mass; // K x d, K
};

// W: n_levels x K x d, W0: K x d, singular: K; all overwritten. A pivot below `least` of its diagonal entry is singular:
// what is then found for that cluster means nothing. The bits do not depend on n_threads.
void solve_ridge(const RidgeSystem&, double least, double* W, double* W0, bool* singular, int n_threads, const Poll&);

} // namespace harmonax
