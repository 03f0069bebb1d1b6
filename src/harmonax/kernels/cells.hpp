// The cells of one run, in memory or in a file, and what the loop asks of them (algorithm/contracts.py), in terms of the
// tile kernels.
// No Python here: tests/kernels runs this file under sanitizers.
#pragma once
#include "parallel.hpp"
#include "plan.hpp"
#include "tile.hpp"

#include <cstddef>
#include <utility>
#include <vector>

namespace harmonax {

// The best instruction set of this processor, or the one that is named; throws std::invalid_argument.
const InstructionSet& instruction_set(const char* name);
std::vector<const char*> instruction_sets();

// Uninitialised memory, aligned to cache lines.
template <typename T>
class Buffer {
  public:
    explicit Buffer(int64_t n);
    ~Buffer();
    Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        return *this;
    }
    T* data() const { return data_; }

  private:
    T* data_;
};

// Centroids and widths, doubles as NumPy hands them over.
struct Centroids {
    const double* Y;     // K x d
    const double* sigma; // K
    int64_t K;
};

// Largest 4 / sigma_k, over all k, for which exp(-D / sigma_k) is kept apart from the penalty: half of what exp can take;
// the other half is for the clusters that are not the nearest.
template <typename T>
constexpr double DEEPEST = sizeof(T) == 4 ? 43.0 : 350.0;

template <typename T>
class Cells {
  public:
    // Of a plan that was checked, whose arrays outlive the cells. The last columns of Z are the covariates: Zn, Y and W
    // have zeros there. Z, n_cells x d, may have any strides, in values.
    template <typename Source>
    Cells(const Plan& plan, int64_t d, const Source* Z, int64_t row_stride, int64_t column_stride,
          const InstructionSet& set, int n_threads, const Poll& poll);
    // Cells in an open file, from its beginning: Z, n_cells x d, in the plan's order; room for as many Zn behind it, which
    // are written here. Threads read the grains they work on, and nothing else is in memory.
    Cells(const Plan& plan, int64_t d, int file, const InstructionSet& set, int n_threads, const Poll& poll);

    // Keep exp(-D / sigma) of as many blocks as these bytes hold: the bits are the same. It is kept from a sweep without
    // logp and moment on, until Y, sigma or Zn change, where sigma is not too small (DEEPEST).
    void keep_weights(int64_t bytes);
    // End the threads and release what is kept.
    void release();

    // Every method throws std::system_error when the file cannot be read or written.
    //
    // Returns sum_i (sum_k sigma_k R_ik) ln Z_i. logp: n_levels x K or null. mass: n_levels x K, moment: K x d or null; both
    // overwritten. With `last`, R^T Z is summed on the way, where the sums of a block are small: once every block was swept
    // so, moments() has them already.
    double sweep(int64_t block, const Centroids&, const double* logp, double* mass, double* moment, bool last,
                 const Poll&);
    // Returns sum_ik sigma_k R_ik ln R_ik. logp: n_blocks x n_levels x K. S: n_joint x K x width_S, of Z and of Z times each
    // covariate; mass: n_joint x K; both overwritten.
    double moments(const Centroids&, const double* logp, double* S, double* mass, const Poll&);
    // W: (n_levels + n_covariates) x K x d. moment: K x d or null.
    void correct(const Centroids&, const double* logp, const double* W, double* moment, const Poll&);
    // Exactly one output, n_cells x (d - n_covariates), in the order of the input. moment: K x d or null, R^T of it.
    void emit(const Centroids&, const double* logp, const double* W, double* moment, float* out32, double* out64,
              const Poll&) const;
    // The same for cells in a file, where Z gives way to the result, in the plan's order.
    void emit_in_place(const Centroids&, const double* logp, const double* W, double* moment, const Poll&) const;
    // out: n_cells x K; each cell's row is given by `order`.
    void assign(const Centroids&, const double* logp, const int64_t* order, T* out, const Poll&) const;

    const Plan& plan() const { return plan_; }
    // Columns of Z, the covariates among them, and of S.
    int64_t d() const { return d_; }
    int64_t width_S() const { return (1 + plan_.n_covariates) * d_; }
    bool in_file() const { return file_ >= 0; }
    const T* Zn() const { return Zn_.data(); } // of cells in memory

  private:
    struct Packed;
    struct Worker;
    Packed pack(const Centroids&, const double* logp, int64_t n_tables, const double* W, bool levels_too = true) const;
    void pack_W(const Centroids&, const double* W, int64_t level, bool of_joint, T* to) const;
    template <typename Body>
    void by_rows(int64_t n_rows, const Body& body) const;
    // One for each thread that n_items pieces of work can keep busy.
    std::vector<Worker> make_workers(int64_t n_items, const Centroids&) const;
    // Whether the weights of a block are at hand.
    bool knows(int64_t block) const { return block < (int64_t)kept_.known.size() && kept_.known[block]; }
    bool are_kept(const Centroids&) const;
    void begin_keeping(const Centroids&);
    void correct_joint_levels(const Centroids&, const double* logp, const double* W, const Poll&);
    void correct_blocks(const Centroids&, const double* logp, const double* W, double* moment, float* out32,
                        double* out64, bool in_place, const Poll&) const;

    Plan plan_;
    int64_t d_;
    const TileOps<T>* ops_;
    int n_threads_, file_ = -1;
    mutable Team team_;
    int64_t longest_ = 0; // cells in the longest grain, of cells in a file
    Buffer<T> Z_, Zn_;
    // The moments so far of a last pass: of how many blocks, n_joint x d x K_pad, n_joint x K; and one block's, by segment.
    int64_t collected_ = 0;
    double collected_entropy_ = 0;
    std::vector<double> collected_S_, collected_mass_, segment_S_;
    std::vector<double> segment_mass_; // of the block that is swept
    // Weights of the first blocks, of which centroids they are, and of which blocks they are there.
    struct Kept {
        int64_t bytes = 0;
        std::vector<double> Y, sigma;
        std::vector<char> known; // one for each block that there is room for
        Buffer<T> A{0};
    } kept_;
};

} // namespace harmonax
