#include "cells.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <system_error>

#ifndef _WIN32
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>
#endif
#if defined(_MSC_VER) && defined(HARMONAX_X86)
// __builtin_cpu_supports reads what this library fills in; clang-cl does not link it by itself.
#pragma comment(lib, "clang_rt.builtins-x86_64.lib")
#endif

namespace harmonax {

namespace plain {
extern const InstructionSet SET;
}
#ifdef HARMONAX_X86
namespace avx2 {
extern const InstructionSet SET;
}
namespace avx512 {
extern const InstructionSet SET;
}
#endif

namespace {

// Best first.
std::vector<const InstructionSet*> available() {
    std::vector<const InstructionSet*> sets;
#ifdef HARMONAX_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        sets.push_back(&avx512::SET);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&avx2::SET);
#endif
    sets.push_back(&plain::SET);
    return sets;
}

// Moments are summed during a last pass where those of one block, by segment, take at most this many bytes, and those of
// all joint levels four times as many.
constexpr int64_t MAX_COLLECTED = 16 << 20;

// Vectors want whole cache lines.
constexpr std::align_val_t ALIGNMENT{64};

// How many rows ahead a gather asks for.
constexpr int64_t AHEAD = 16;

// Tables of more rows than this are made by several threads, so many rows at a time, or so many columns.
constexpr int64_t MANY = 1024, COLUMNS = 32;

int64_t padded(int64_t n, int64_t width) { return (n + width - 1) / width * width; }

// Add a table d x K_pad to one of K x d; a cache line of the first at a time.
void add_transposed(const double* from, int64_t K, int64_t d, int64_t K_pad, double* to) {
    for (int64_t first = 0; first < K; first += 8)
        for (int64_t q = 0; q < d; ++q)
            for (int64_t k = first; k < std::min(K, first + 8); ++k) to[k * d + q] += from[q * K_pad + k];
}

// A row of Zn from one of Z, whose last values are covariates.
template <typename T>
void unit_row(const T* z, int64_t d, int64_t n_covariates, T* zn) {
    std::fill(zn + d - n_covariates, zn + d, T(0));
    d -= n_covariates;
    // Four sums, added in a fixed order, because one alone would wait for itself.
    double squares[4] = {0, 0, 0, 0};
    for (int64_t j = 0; j < d; ++j) squares[j % 4] += (double)z[j] * z[j];
    const double norm = std::sqrt((squares[0] + squares[1]) + (squares[2] + squares[3]));
    const double inverse = norm > 0 ? 1.0 / norm : 0.0;
    for (int64_t j = 0; j < d; ++j) zn[j] = (T)(z[j] * inverse);
}

#ifdef _WIN32
void read_file(int, void*, size_t, int64_t) {
    throw std::runtime_error("cells in a file need pread, which Windows lacks");
}
void write_file(int, const void*, size_t, int64_t) {
    throw std::runtime_error("cells in a file need pwrite, which Windows lacks");
}
void will_need(int, int64_t, int64_t) {}
#else
template <typename Call>
void whole(Call call, size_t size, int64_t at) {
    for (size_t done = 0; done < size;) {
        const ssize_t n = call(done, size - done, at + (int64_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw std::system_error(errno, std::generic_category());
        if (n == 0) throw std::system_error(EIO, std::generic_category());
        done += (size_t)n;
    }
}

void read_file(int file, void* to, size_t size, int64_t at) {
    whole([&](size_t done, size_t n, int64_t from) { return pread(file, (char*)to + done, n, from); }, size, at);
}

void write_file(int file, const void* from, size_t size, int64_t at) {
    whole([&](size_t done, size_t n, int64_t to) { return pwrite(file, (const char*)from + done, n, to); }, size, at);
}

// Have the system read ahead while others compute.
void will_need([[maybe_unused]] int file, [[maybe_unused]] int64_t at, [[maybe_unused]] int64_t size) {
#ifdef POSIX_FADV_WILLNEED
    posix_fadvise(file, at, size, POSIX_FADV_WILLNEED);
#endif
}
#endif

} // namespace

const InstructionSet& instruction_set(const char* name) {
    for (const InstructionSet* set : available())
        if (!name || !*name || std::strcmp(set->name, name) == 0) return *set;
    std::string known;
    for (const InstructionSet* set : available()) known += std::string(known.empty() ? "" : ", ") + set->name;
    throw std::invalid_argument("instruction set '" + std::string(name) + "' is not available here; allowed are " +
                                known);
}

std::vector<const char*> instruction_sets() {
    std::vector<const char*> names;
    for (const InstructionSet* set : available()) names.push_back(set->name);
    return names;
}

template <typename T>
Buffer<T>::Buffer(int64_t n) {
    // Huge pages are not asked for: once there they save 3% of a sweep, but in virtual machines their first touch was seen
    // to take 1 to 2.4 s a GiB, against 0.5 s of small ones.
    data_ = static_cast<T*>(::operator new(std::max<int64_t>(n, 1) * sizeof(T), ALIGNMENT));
}

template <typename T>
Buffer<T>::~Buffer() {
    ::operator delete(data_, ALIGNMENT);
}

template <typename T>
struct Cells<T>::Packed {
    Buffer<T> Y, base, sigma, logp, W, Wx;
    Tables<T> tables;
};

template <typename T>
template <typename Source>
Cells<T>::Cells(const Plan& plan, int64_t d, const Source* Z, int64_t row_stride, int64_t column_stride,
                const InstructionSet& set, int n_threads, const Poll& poll)
    : plan_(plan), d_(d), n_threads_(n_threads), Z_(plan.n_cells * d), Zn_(plan.n_cells * d) {
    if constexpr (sizeof(T) == 4)
        ops_ = &set.f32;
    else
        ops_ = &set.f64;
    const int64_t piece = 4096;
    parallel_for(team_, (plan.n_cells + piece - 1) / piece, n_threads_, poll, [&](int64_t item, int) {
        const int64_t stop = std::min(plan.n_cells, (item + 1) * piece);
        for (int64_t i = item * piece; i < stop; ++i) {
            const Source* from = Z + plan.order[i] * row_stride;
            // Rows come from all over the input: ask for them well before they are needed.
            if (i + AHEAD < stop) {
                const Source* soon = Z + plan.order[i + AHEAD] * row_stride;
                for (int64_t j = 0; j < d; j += 64 / (int64_t)sizeof(Source))
                    __builtin_prefetch(soon + j * column_stride);
            }
            T* z = Z_.data() + i * d;
            for (int64_t j = 0; j < d; ++j) z[j] = (T)from[j * column_stride];
            unit_row(z, d, plan.n_covariates, Zn_.data() + i * d);
        }
    });
}

// What one thread works with: the kernels' scratch memory, and the rows at hand.
template <typename T>
struct Cells<T>::Worker {
    const Cells& cells;
    Layout<T> x;
    Buffer<T> scratch, Z, Zn; // the last two for rows from a file
    T* kept;                  // weights, of the blocks that are known; null: of other centroids

    // Have the rows of segments s0 to s1, of one block, at hand; Zn only where it is wanted beside their weights, or these
    // are not kept.
    void take(int64_t s0, int64_t s1, bool Z_too, bool Zn_too = false) {
        const Plan& plan = cells.plan_;
        const bool known = kept && cells.knows(plan.segment_block[s0]);
        x.A = known ? kept : nullptr;
        x.A_is_known = known;
        if (!cells.in_file()) return;
        x.first = plan.segment_start[s0];
        const int64_t n = plan.segment_start[s1] - x.first;
        if (!known || Zn_too) read_file(cells.file_, x.Zn, size(n), Zn_at(x.first));
        if (Z_too) read_file(cells.file_, x.Z, size(n), Z_at(x.first));
        // By the time this is computed others have taken what lies between: ask for what comes then.
        const int64_t soon = x.first + n * cells.n_threads_, n_soon = std::min(n, plan.n_cells - soon);
        if (n_soon <= 0) return;
        if (!known || Zn_too) will_need(cells.file_, Zn_at(soon), size(n_soon));
        if (Z_too) will_need(cells.file_, Z_at(soon), size(n_soon));
    }
    void put_Zn(int64_t s1) const {
        if (cells.in_file())
            write_file(cells.file_, x.Zn, size(cells.plan_.segment_start[s1] - x.first), Zn_at(x.first));
    }
    void put_Z(int64_t s1) const {
        if (cells.in_file()) write_file(cells.file_, x.Z, size(cells.plan_.segment_start[s1] - x.first), Z_at(x.first));
    }

    size_t size(int64_t n) const { return (size_t)(n * x.d) * sizeof(T); }
    int64_t Z_at(int64_t cell) const { return (int64_t)size(cell); }
    int64_t Zn_at(int64_t cell) const { return (int64_t)size(cells.plan_.n_cells + cell); }
};

template <typename T>
std::vector<typename Cells<T>::Worker> Cells<T>::make_workers(int64_t n_items, const Centroids& c) const {
    const int64_t rows = longest_ * d_;
    T* kept = are_kept(c) ? kept_.A.data() : nullptr;
    std::vector<Worker> workers;
    for (int64_t i = 0; i < std::min<int64_t>(n_threads_, std::max<int64_t>(n_items, 1)); ++i) {
        workers.push_back({*this,
                           {Z_.data(), Zn_.data(), plan_.order.data, 0, nullptr, false, plan_.segment_start.data,
                            plan_.segment_joint.data, plan_.segment_block.data, plan_.joint_levels.data,
                            plan_.n_variables, plan_.n_levels, c.K, d_, plan_.n_covariates, d_ - plan_.n_covariates},
                           Buffer<T>(ops_->scratch(d_, c.K)),
                           Buffer<T>(rows),
                           Buffer<T>(rows),
                           kept});
        Worker& w = workers.back();
        if (in_file()) w.x.Z = w.Z.data(), w.x.Zn = w.Zn.data();
    }
    return workers;
}

template <typename T>
Cells<T>::Cells(const Plan& plan, int64_t d, int file, const InstructionSet& set, int n_threads, const Poll& poll)
    : plan_(plan), d_(d), n_threads_(n_threads), file_(file), Z_(0), Zn_(0) {
    if constexpr (sizeof(T) == 4)
        ops_ = &set.f32;
    else
        ops_ = &set.f64;
    auto start = [&](int64_t g) { return plan.segment_start[plan.grain_segment[g]]; };
    for (int64_t g = 0; g < plan.n_grains; ++g) longest_ = std::max(longest_, start(g + 1) - start(g));
    std::vector<Worker> workers = make_workers(plan.n_grains, {nullptr, nullptr, 1});
    parallel_for(team_, plan.n_grains, n_threads_, poll, [&](int64_t g, int worker) {
        Worker& w = workers[worker];
        w.x.first = start(g);
        const int64_t n = start(g + 1) - start(g);
        read_file(file_, w.x.Z, w.size(n), w.Z_at(w.x.first));
        for (int64_t i = 0; i < n; ++i) unit_row(w.x.Z + i * d, d, plan.n_covariates, w.x.Zn + i * d);
        w.put_Zn(plan.grain_segment[g + 1]);
    });
}

// Call body(row) for every row of a table, on several threads where there are many.
template <typename T>
template <typename Body>
void Cells<T>::by_rows(int64_t n_rows, const Body& body) const {
    parallel_for(team_, (n_rows + MANY - 1) / MANY, n_threads_, nullptr, [&](int64_t item, int) {
        for (int64_t row = item * MANY; row < std::min(n_rows, (item + 1) * MANY); ++row) body(row);
    });
}

template <typename T>
typename Cells<T>::Packed Cells<T>::pack(const Centroids& c, const double* logp, int64_t n_tables, const double* W,
                                         bool levels_too) const {
    const int64_t K = c.K, d = d_, B = plan_.n_levels, width = ops_->width;
    const int64_t K_pad = padded(K, width), d_pad = padded(d, width);
    // Where joint levels are no more than levels, as of nested variables, each has its own W.
    const bool W_of_joint = plan_.n_joint <= B;
    const int64_t n_W = W_of_joint ? plan_.n_joint : B;
    Packed p{Buffer<T>(K_pad * d),
             Buffer<T>(K_pad),
             Buffer<T>(K_pad),
             Buffer<T>(logp ? n_tables * B * K_pad : 0),
             Buffer<T>(W && levels_too ? n_W * K * d_pad : 0),
             Buffer<T>(W ? plan_.n_covariates * K * d_pad : 0),
             {}};
    std::vector<double> scaled(K * d);
    bool one_sigma = true, bounded = true;
    for (int64_t k = 0; k < K; ++k) {
        one_sigma = one_sigma && c.sigma[k] == c.sigma[0];
        bounded = bounded && 4.0 / c.sigma[k] <= DEEPEST<T>;
        for (int64_t j = 0; j < d; ++j) scaled[k * d + j] = 2.0 / c.sigma[k] * c.Y[k * d + j];
    }
    ops_->pack_panels(scaled.data(), d, K, 1, d, p.Y.data());
    for (int64_t k = 0; k < K_pad; ++k) {
        p.base.data()[k] = k < K ? (T)(-2.0 / c.sigma[k]) : (T)-1e30;
        p.sigma.data()[k] = k < K ? (T)c.sigma[k] : (T)0;
    }
    if (logp)
        by_rows(n_tables * B, [&](int64_t row) {
            for (int64_t k = 0; k < K_pad; ++k)
                p.logp.data()[row * K_pad + k] = k < K ? (T)logp[row * K + k] : (T)-1e30;
        });
    for (int64_t i = 0; W && i < plan_.n_covariates; ++i)
        ops_->pack_panels(W + (B + i) * K * d, K, d, d, 1, p.Wx.data() + i * K * d_pad);
    if (W && levels_too)
        parallel_for(team_, n_W, n_threads_, nullptr,
                     [&](int64_t i, int) { pack_W(c, W, i, W_of_joint, p.W.data() + i * K * d_pad); });
    p.tables = {p.Y.data(),
                p.base.data(),
                logp ? p.logp.data() : nullptr,
                n_tables > 1 ? B * K_pad : 0,
                p.sigma.data(),
                one_sigma,
                bounded,
                W && levels_too ? p.W.data() : nullptr,
                W_of_joint,
                K * d_pad,
                p.Wx.data()};
    return p;
}

// Pack the W of one level, or the sum over a joint level's.
template <typename T>
void Cells<T>::pack_W(const Centroids& c, const double* W, int64_t i, bool of_joint, T* to) const {
    const int64_t size = c.K * d_;
    const int32_t* levels = plan_.joint_levels.data + i * plan_.n_variables;
    const double* from = W + (of_joint ? levels[0] : i) * size;
    std::vector<double> sum;
    if (of_joint && plan_.n_variables > 1) {
        sum.assign(from, from + size);
        for (int64_t f = 1; f < plan_.n_variables; ++f)
            for (int64_t j = 0; j < size; ++j) sum[j] += W[levels[f] * size + j];
        from = sum.data();
    }
    ops_->pack_panels(from, c.K, d_, d_, 1, to);
}

template <typename T>
void Cells<T>::keep_weights(int64_t bytes) {
    kept_ = {};
    kept_.bytes = bytes;
}

template <typename T>
void Cells<T>::release() {
    keep_weights(0);
    team_.release();
}

template <typename T>
bool Cells<T>::are_kept(const Centroids& c) const {
    return !kept_.known.empty() && (int64_t)kept_.sigma.size() == c.K &&
           std::equal(kept_.sigma.begin(), kept_.sigma.end(), c.sigma) &&
           std::equal(kept_.Y.begin(), kept_.Y.end(), c.Y);
}

// Make room for the weights of other centroids.
template <typename T>
void Cells<T>::begin_keeping(const Centroids& c) {
    const int64_t row = padded(c.K, ops_->width);
    int64_t n_blocks = 0;
    auto size = [&](int64_t n) { return plan_.segment_start[plan_.block_segment[n]] * row; };
    while (n_blocks < plan_.n_blocks && size(n_blocks + 1) <= kept_.bytes / (int64_t)sizeof(T)) ++n_blocks;
    if (c.K != (int64_t)kept_.sigma.size()) kept_.A = Buffer<T>(size(n_blocks));
    kept_.Y.assign(c.Y, c.Y + c.K * d_);
    kept_.sigma.assign(c.sigma, c.sigma + c.K);
    kept_.known.assign(n_blocks, false);
}

template <typename T>
double Cells<T>::sweep(int64_t block, const Centroids& c, const double* logp, double* mass, double* moment, bool last,
                       const Poll& poll) {
    const int64_t K = c.K, d = d_, K_pad = padded(K, ops_->width);
    const Packed p = pack(c, logp, 1, nullptr);
    const int64_t g0 = plan_.block_grain[block], n_grains = plan_.block_grain[block + 1] - g0;
    const int64_t s0 = plan_.block_segment[block], n_segments = plan_.block_segment[block + 1] - s0;
    segment_mass_.resize(n_segments * K);
    std::vector<double> grain_moment(moment ? n_grains * d * K_pad : 0, 0.0);
    std::vector<GrainSums> sums(n_grains);
    const int64_t table = width_S() * K_pad;
    const bool collect =
        last && std::max(n_segments, plan_.n_joint / 4) * table * (int64_t)sizeof(double) <= MAX_COLLECTED;
    if (collect) segment_S_.assign(n_segments * table, 0.0);
    // What centroids that stay for the round are asked for first.
    const bool first = kept_.bytes > 0 && !logp && !moment && p.tables.bounded;
    if (first && !are_kept(c)) begin_keeping(c);
    const bool keep = first && block < (int64_t)kept_.known.size() && !knows(block);
    std::vector<Worker> workers = make_workers(n_grains, c);
    parallel_for(team_, n_grains, n_threads_, poll, [&](int64_t g, int worker) {
        const int64_t s = plan_.grain_segment[g0 + g], stop = plan_.grain_segment[g0 + g + 1];
        std::fill_n(segment_mass_.data() + (s - s0) * K, (stop - s) * K, 0.0);
        sums[g] = {segment_mass_.data() + (s - s0) * K, 0, 0, moment ? grain_moment.data() + g * d * K_pad : nullptr,
                   collect ? segment_S_.data() + (s - s0) * table : nullptr};
        Worker& w = workers[worker];
        w.take(s, stop, collect, moment);
        if (keep) w.x.A = w.kept;
        ops_->sweep(w.x, p.tables, s, stop, w.scratch.data(), &sums[g]);
    });
    if (keep) kept_.known[block] = true;
    // Combined in one fixed order: the bits do not depend on the threads.
    double log_partition = 0, entropy = 0;
    for (const GrainSums& s : sums) log_partition += s.log_partition, entropy += s.entropy;
    // Of thousands of levels by several threads, each with its own clusters.
    const int64_t width = n_segments < MANY ? K : COLUMNS;
    parallel_for(team_, (K + width - 1) / width, n_threads_, nullptr, [&](int64_t item, int) {
        const int64_t begin = item * width, end = std::min(K, begin + width);
        for (int64_t b = 0; b < plan_.n_levels; ++b) std::fill(mass + b * K + begin, mass + b * K + end, 0.0);
        for (int64_t s = 0; s < n_segments; ++s)
            for (int64_t f = 0; f < plan_.n_variables; ++f) {
                double* to = mass + plan_.joint_levels[plan_.segment_joint[s0 + s] * plan_.n_variables + f] * K;
                for (int64_t k = begin; k < end; ++k) to[k] += segment_mass_[s * K + k];
            }
    });
    if (moment) {
        std::fill(moment, moment + K * d, 0.0);
        for (int64_t g = 0; g < n_grains; ++g)
            for (int64_t j = 0; j < d; ++j)
                for (int64_t k = 0; k < K; ++k) moment[k * d + j] += grain_moment[(g * d + j) * K_pad + k];
    }
    if (!collect) {
        collected_ = 0;
        return log_partition;
    }
    if (collected_mass_.size() != (size_t)(plan_.n_joint * K)) collected_ = 0;
    if (collected_++ == 0) {
        collected_S_.assign(plan_.n_joint * table, 0.0);
        collected_mass_.assign(plan_.n_joint * K, 0.0);
        collected_entropy_ = 0;
    }
    collected_entropy_ += entropy;
    for (int64_t s = 0; s < n_segments; ++s) {
        const int64_t j = plan_.segment_joint[s0 + s];
        for (int64_t i = 0; i < table; ++i) collected_S_[j * table + i] += segment_S_[s * table + i];
        for (int64_t k = 0; k < K; ++k) collected_mass_[j * K + k] += segment_mass_[s * K + k];
    }
    return log_partition;
}

template <typename T>
double Cells<T>::moments(const Centroids& c, const double* logp, double* S, double* mass, const Poll& poll) {
    const int64_t K = c.K, d = width_S(), K_pad = padded(K, ops_->width);
    // Of other clusters they would be too few or too many.
    if (std::exchange(collected_, 0) == plan_.n_blocks && collected_mass_.size() == (size_t)(plan_.n_joint * K)) {
        std::fill(S, S + plan_.n_joint * K * d, 0.0);
        for (int64_t j = 0; j < plan_.n_joint; ++j)
            add_transposed(collected_S_.data() + j * d * K_pad, K, d, K_pad, S + j * K * d);
        std::copy(collected_mass_.begin(), collected_mass_.end(), mass);
        return collected_entropy_;
    }
    const Packed p = pack(c, logp, plan_.n_blocks, nullptr);
    struct Unit {
        std::vector<double> S, mass;
    };
    std::vector<Unit> units(plan_.n_units);
    std::vector<double> entropy(plan_.n_units, 0.0);
    std::vector<Worker> workers = make_workers(plan_.n_units, c);
    by_rows(plan_.n_joint, [&](int64_t j) {
        std::fill_n(S + j * K * d, K * d, 0.0);
        std::fill_n(mass + j * K, K, 0.0);
    });
    auto joint_of = [&](int64_t u) { return plan_.segment_joint[plan_.segments_by_joint[plan_.unit_segment[u]]]; };
    auto add = [&](int64_t u) {
        const int64_t j = joint_of(u);
        add_transposed(units[u].S.data(), K, d, K_pad, S + j * K * d);
        for (int64_t k = 0; k < K; ++k) mass[j * K + k] += units[u].mass[k];
        units[u] = {};
    };
    parallel_for(team_, plan_.n_units, n_threads_, poll, [&](int64_t u, int worker) {
        units[u] = {std::vector<double>(d * K_pad, 0.0), std::vector<double>(K_pad, 0.0)};
        Worker& w = workers[worker];
        for (int64_t i = plan_.unit_segment[u]; i < plan_.unit_segment[u + 1]; ++i) {
            const int64_t s = plan_.segments_by_joint[i];
            w.take(s, s + 1, true);
            ops_->moments(w.x, p.tables, s, w.scratch.data(), units[u].S.data(), units[u].mass.data(), &entropy[u]);
        }
        // A joint level that is one unit is added right away: with thousands of them, memory stays small.
        const bool alone =
            (u == 0 || joint_of(u - 1) != joint_of(u)) && (u + 1 == plan_.n_units || joint_of(u + 1) != joint_of(u));
        if (alone) add(u);
    });
    for (int64_t u = 0; u < plan_.n_units; ++u)
        if (!units[u].S.empty()) add(u);
    return std::accumulate(entropy.begin(), entropy.end(), 0.0);
}

template <typename T>
void Cells<T>::correct_blocks(const Centroids& c, const double* logp, const double* W, double* moment, float* out32,
                              double* out64, bool in_place, const Poll& poll) const {
    const int64_t K = c.K, d = d_, K_pad = padded(K, ops_->width);
    const Packed p = pack(c, logp, plan_.n_blocks, W);
    std::vector<Worker> workers = make_workers(plan_.n_grains, c);
    // A grain's own rows give way to the result: no row goes elsewhere.
    std::vector<int64_t> same(in_place ? longest_ : 0);
    std::iota(same.begin(), same.end(), int64_t(0));
    // A block at a time bounds the memory of the grains' sums.
    const int64_t step = moment ? 1 : plan_.n_blocks;
    if (moment) std::fill(moment, moment + K * d, 0.0);
    for (int64_t block = 0; block < plan_.n_blocks; block += step) {
        const int64_t g0 = plan_.block_grain[block], n_grains = plan_.block_grain[block + step] - g0;
        std::vector<double> grain_moment(moment ? n_grains * d * K_pad : 0, 0.0);
        parallel_for(team_, n_grains, n_threads_, poll, [&](int64_t g, int worker) {
            const int64_t s0 = plan_.grain_segment[g0 + g], s1 = plan_.grain_segment[g0 + g + 1];
            Worker& w = workers[worker];
            w.take(s0, s1, true);
            float* to32 = out32;
            double* to64 = out64;
            if (in_place) {
                w.x.order = same.data();
                w.x.d_out = d;
                if constexpr (sizeof(T) == 4)
                    to32 = w.x.Z;
                else
                    to64 = w.x.Z;
            }
            ops_->correct(w.x, p.tables, s0, s1, w.scratch.data(),
                          moment ? grain_moment.data() + g * d * K_pad : nullptr, to32, to64);
            if (in_place)
                w.put_Z(s1);
            else if (!out32 && !out64)
                w.put_Zn(s1);
        });
        for (int64_t g = 0; moment && g < n_grains; ++g)
            for (int64_t j = 0; j < d; ++j)
                for (int64_t k = 0; k < K; ++k) moment[k * d + j] += grain_moment[(g * d + j) * K_pad + k];
    }
}

// One joint level after the other, so that W of thousands of them is packed when it is needed, and stays in the cache.
template <typename T>
void Cells<T>::correct_joint_levels(const Centroids& c, const double* logp, const double* W, const Poll& poll) {
    const Packed p = pack(c, logp, plan_.n_blocks, W, false);
    std::vector<Worker> workers = make_workers(plan_.n_units, c);
    std::vector<Buffer<T>> own;
    for (size_t i = 0; i < workers.size(); ++i) own.emplace_back(c.K * padded(d_, ops_->width));
    parallel_for(team_, plan_.n_units, n_threads_, poll, [&](int64_t u, int worker) {
        Worker& w = workers[worker];
        Tables<T> tables = p.tables;
        tables.W = own[worker].data(), tables.W_of_joint = true, tables.W_stride = 0;
        const int64_t begin = plan_.unit_segment[u];
        pack_W(c, W, plan_.segment_joint[plan_.segments_by_joint[begin]], true, own[worker].data());
        for (int64_t i = begin; i < plan_.unit_segment[u + 1]; ++i) {
            const int64_t s = plan_.segments_by_joint[i];
            w.take(s, s + 1, true);
            ops_->correct(w.x, tables, s, s + 1, w.scratch.data(), nullptr, nullptr, nullptr);
        }
    });
}

template <typename T>
void Cells<T>::correct(const Centroids& c, const double* logp, const double* W, double* moment, const Poll& poll) {
    // The same bits: no row's result depends on others. A file is better read grain by grain.
    if (!moment && !in_file() && plan_.n_joint <= plan_.n_levels)
        correct_joint_levels(c, logp, W, poll);
    else
        correct_blocks(c, logp, W, moment, nullptr, nullptr, false, poll);
    std::fill(kept_.known.begin(), kept_.known.end(), false);
}

template <typename T>
void Cells<T>::emit(const Centroids& c, const double* logp, const double* W, double* moment, float* out32,
                    double* out64, const Poll& poll) const {
    correct_blocks(c, logp, W, moment, out32, out64, false, poll);
}

template <typename T>
void Cells<T>::emit_in_place(const Centroids& c, const double* logp, const double* W, double* moment,
                             const Poll& poll) const {
    correct_blocks(c, logp, W, moment, nullptr, nullptr, true, poll);
}

template <typename T>
void Cells<T>::assign(const Centroids& c, const double* logp, const int64_t* order, T* out, const Poll& poll) const {
    const Packed p = pack(c, logp, plan_.n_blocks, nullptr);
    std::vector<Worker> workers = make_workers(plan_.n_grains, c);
    parallel_for(team_, plan_.n_grains, n_threads_, poll, [&](int64_t g, int worker) {
        const int64_t s0 = plan_.grain_segment[g], s1 = plan_.grain_segment[g + 1];
        Worker& w = workers[worker];
        w.take(s0, s1, false);
        w.x.order = order + w.x.first;
        ops_->assign(w.x, p.tables, s0, s1, w.scratch.data(), out);
    });
}

#define HX_INSTANTIATE(T)                                                                                              \
    template class Buffer<T>;                                                                                          \
    template class Cells<T>;                                                                                           \
    template Cells<T>::Cells(const Plan&, int64_t, const float*, int64_t, int64_t, const InstructionSet&, int,         \
                             const Poll&);                                                                             \
    template Cells<T>::Cells(const Plan&, int64_t, const double*, int64_t, int64_t, const InstructionSet&, int,        \
                             const Poll&);
HX_INSTANTIATE(float)
HX_INSTANTIATE(double)

} // namespace harmonax
