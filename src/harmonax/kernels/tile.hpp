// What one instruction set offers: a table of function pointers, filled by tile.inl once per instruction set.
//
// Plain data only. Nothing here may need code from the standard library: a template or inline function that is
// instantiated in a unit compiled for AVX-512 could be picked by the linker for all units, and crash elsewhere.
#pragma once
#include <stdint.h>

namespace harmonax {

// Cells in the order (block, joint level). A segment is a run of cells of one block and one joint level, cut where a
// grain ends; a grain is a fixed-size piece of one block, and the unit of parallel work.
template <typename T>
struct Layout {
    T* Z;                         // rows of d values, those from cell `first` on, the covariates last
    T* Zn;                        // the same, of unit length, with zeros for the covariates
    const int64_t* order;         // row of the output that each of these cells goes to
    int64_t first;                // 0 where all cells are at hand
    T* A;                         // weights of all cells, rows of K_pad: to read, or to be written; or null (tile.inl)
    bool A_is_known;              // they are there to be read, and Zn is not needed
    const int64_t* segment_start; // n_segments + 1
    const int32_t* segment_joint;
    const int32_t* segment_block;
    const int32_t* joint_levels; // n_joint x n_variables
    int64_t n_variables, n_levels, n_clusters, d;
    int64_t n_covariates; // numeric columns among the d
    int64_t d_out;        // from one row of the output to the next; of each, d - n_covariates values are written
};

// Tables packed for one call. K_pad and d_pad are K and d rounded up to whole vectors.
template <typename T>
struct Tables {
    const T* Y;          // 2 Y_k / sigma_k, transposed, in panels (see pack_panels)
    const T* base;       // K_pad: -2 / sigma_k, and very small in the padding
    const T* logp;       // n_levels x K_pad for each block, or null: no penalty
    int64_t logp_stride; // from one block's logp to the next; 0 where all that is asked for is one block
    const T* sigma;      // K_pad, 0 in the padding
    bool one_sigma;
    bool bounded;     // exp(-4 / sigma_k) is far from underflow for every k: see segment_penalty
    const T* W;       // n_levels x (K x d_pad in panels), for corrections
    bool W_of_joint;  // it has one for each joint level instead, the sum over its levels
    int64_t W_stride; // then, from one joint level's to the next; 0 where all that is asked for is one joint level
    const T* Wx;      // n_covariates x (K x d_pad in panels): what is subtracted for each unit of them
};

// Which reassigned sums a grain returns. `mass` has one row of K doubles per segment of the grain, `S` (R^T Z, or null)
// one (1 + n_covariates) d x K_pad: of Z, and of Z times each covariate. The entropy is that of a grain with S alone.
struct GrainSums {
    double* mass;
    double log_partition;
    double entropy;
    double* moment; // d x K_pad, or null
    double* S;
};

template <typename T>
struct TileOps {
    int64_t width;                            // values in a vector
    int64_t (*scratch)(int64_t d, int64_t K); // values of T that one thread needs
    void (*sweep)(const Layout<T>&, const Tables<T>&, int64_t s0, int64_t s1, T* scratch, GrainSums*);
    // S: (1 + n_covariates) d x K_pad, mass: K_pad, entropy: one value; all are added to.
    void (*moments)(const Layout<T>&, const Tables<T>&, int64_t segment, T* scratch, double* S, double* mass,
                    double* entropy);
    // Exactly one of (Zn updated in place), out32, out64 is written; R^T of it is added to moment (d x K_pad) unless null.
    void (*correct)(const Layout<T>&, const Tables<T>&, int64_t s0, int64_t s1, T* scratch, double* moment,
                    float* out32, double* out64);
    void (*assign)(const Layout<T>&, const Tables<T>&, int64_t s0, int64_t s1, T* scratch, T* out);
    // Copy `rows` x `columns` values into panels of vectors, padding columns with zeros.
    void (*pack_panels)(const double* from, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
                        T* to);
};

struct InstructionSet {
    const char* name;
    TileOps<float> f32;
    TileOps<double> f64;
};

} // namespace harmonax
