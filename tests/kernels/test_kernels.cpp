// The native cells against loops written from docs/algorithm.md, for every instruction set of this machine and both
// precisions, on sizes around whole vectors, tiles and grains. Built with address and undefined-behaviour sanitizers, so
// reading or writing past an end fails too.
#include "../../src/harmonax/kernels/cells.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace harmonax;

namespace {

int passed = 0, failed = 0;

void check(bool ok, const std::string& what) {
    ok ? ++passed : ++failed;
    if (!ok) std::printf("FAILED %s\n", what.c_str());
}

struct Problem {
    int64_t N, d, K, F, n_blocks;
    std::vector<int64_t> levels_of; // levels of each variable
    std::vector<double> Z, Y, sigma, logp, W;
    std::vector<int32_t> joint_levels, joint, block;
    std::vector<int64_t> order, segment_start, block_segment, block_grain, grain_segment, by_joint, unit_segment;
    std::vector<int32_t> segment_joint, segment_block;
    int64_t B = 0, J = 1, C = 0; // covariates: the last C of the d

    Problem(int64_t cells, int64_t features, int64_t clusters, std::vector<int64_t> levels, int64_t blocks,
            int64_t grain, bool one_sigma, double least_sigma, unsigned seed)
        : N(cells), d(features), K(clusters), F((int64_t)levels.size()), n_blocks(blocks), levels_of(levels) {
        std::mt19937 random(seed);
        std::normal_distribution<double> normal;
        std::uniform_real_distribution<double> uniform(least_sigma, 0.3);
        auto fill = [&](std::vector<double>& v, int64_t n) {
            v.resize(n);
            for (double& x : v) x = normal(random);
        };
        for (int64_t n : levels) J *= n, B += n;
        for (int64_t j = 0; j < J; ++j) {
            int64_t rest = j, offset = 0;
            for (int64_t n : levels) {
                joint_levels.push_back((int32_t)(offset + rest % n));
                rest /= n;
                offset += n;
            }
        }
        fill(Z, N * d);
        for (int64_t j = 0; j < d && N > 3; ++j) Z[3 * d + j] = 0; // a zero row stays zero
        fill(Y, K * d);
        fill(W, B * K * d);
        fill(logp, n_blocks * B * K);
        for (int64_t k = 0; k < K; ++k) {
            double norm = 0;
            for (int64_t j = 0; j < d; ++j) norm += Y[k * d + j] * Y[k * d + j];
            for (int64_t j = 0; j < d; ++j) Y[k * d + j] /= std::sqrt(norm);
        }
        for (int64_t k = 0; k < K; ++k) sigma.push_back(one_sigma ? least_sigma : uniform(random));
        // Penalties of some size, and in one level one that leaves a single cluster.
        for (int64_t g = 0; g < n_blocks; ++g)
            for (int64_t k = 1; k < K; ++k) logp[(g * B + levels[0] - 1) * K + k] -= 200;
        // Block 0 and joint level 0 are left empty where there is more than one.
        for (int64_t i = 0; i < N; ++i) {
            block.push_back((int32_t)(n_blocks > 1 ? 1 + random() % (n_blocks - 1) : 0));
            joint.push_back((int32_t)(J > 1 ? 1 + random() % (J - 1) : 0));
        }
        lay_out(grain);
    }

    // Make covariates of the last features.
    Problem& with_covariates(int64_t n) {
        C = n;
        std::mt19937 random(5);
        std::normal_distribution<double> normal;
        for (int64_t i = 0; i < C * K * d; ++i) W.push_back(normal(random));
        for (std::vector<double>* rows : {&Y, &W})
            for (size_t i = 0; i < rows->size(); ++i)
                if ((int64_t)i % d >= d - C) (*rows)[i] = 0;
        return *this;
    }

    void lay_out(int64_t grain) {
        for (int64_t g = 0; g < n_blocks; ++g) {
            const int64_t begin = (int64_t)order.size();
            block_segment.push_back((int64_t)segment_start.size());
            block_grain.push_back((int64_t)grain_segment.size());
            for (int64_t j = 0; j < J; ++j) {
                bool open = false;
                for (int64_t i = 0; i < N; ++i) {
                    if (block[i] != g || joint[i] != j) continue;
                    const int64_t at = (int64_t)order.size();
                    const bool cut = (at - begin) % grain == 0;
                    if (!open || cut) {
                        if (cut) grain_segment.push_back((int64_t)segment_start.size());
                        segment_start.push_back(at);
                        segment_joint.push_back((int32_t)j);
                        segment_block.push_back((int32_t)g);
                        open = true;
                    }
                    order.push_back(i);
                }
            }
        }
        block_segment.push_back((int64_t)segment_start.size());
        block_grain.push_back((int64_t)grain_segment.size());
        grain_segment.push_back((int64_t)segment_start.size());
        segment_start.push_back(N);
        unit_segment.push_back(0);
        for (int64_t j = 0; j < J; ++j) {
            const size_t before = by_joint.size();
            for (size_t s = 0; s < segment_joint.size(); ++s)
                if (segment_joint[s] == j) {
                    by_joint.push_back((int64_t)s);
                    // Every third segment ends a unit, so that levels consist of several.
                    if (by_joint.size() % 3 == 0) unit_segment.push_back((int64_t)by_joint.size());
                }
            if (by_joint.size() > before && unit_segment.back() != (int64_t)by_joint.size())
                unit_segment.push_back((int64_t)by_joint.size());
        }
    }

    Plan unchecked() const {
        auto view = [](const auto& v) {
            return View<typename std::decay_t<decltype(v)>::value_type>{v.data(), (int64_t)v.size()};
        };
        Plan p;
        p.n_levels = B;
        p.n_variables = F;
        p.n_covariates = C;
        p.order = view(order);
        p.segment_start = view(segment_start);
        p.segment_joint = view(segment_joint);
        p.segment_block = view(segment_block);
        p.joint_levels = view(joint_levels);
        p.block_segment = view(block_segment);
        p.block_grain = view(block_grain);
        p.grain_segment = view(grain_segment);
        p.segments_by_joint = view(by_joint);
        p.unit_segment = view(unit_segment);
        return p;
    }
    Plan plan() const {
        Plan p = unchecked();
        p.check();
        return p;
    }
};

// What the loops below make of the problem, once for every instruction set, precision and number of threads.
struct Truth {
    std::vector<double> Zn, R, log_z, Zc, Zn_new;
    // Of each block.
    std::vector<std::vector<double>> mass, moment, sums;
    // Of each joint level, and of all cells; Zc without the covariates.
    std::vector<double> S, joint_mass, corrected_moment, emitted_moment, emitted;

    Truth(const Problem& p, bool penalised)
        : Zn(p.Z), R(p.N * p.K), log_z(p.N), Zc(p.Z), mass(p.n_blocks, std::vector<double>(p.B * p.K)),
          moment(p.n_blocks, std::vector<double>(p.K * p.d)), sums(p.n_blocks, std::vector<double>(2)),
          S(p.J * p.K * (1 + p.C) * p.d), joint_mass(p.J * p.K), corrected_moment(p.K * p.d),
          emitted_moment(p.K * p.d) {
        auto unit = [&](std::vector<double>& x) {
            for (int64_t i = 0; i < p.N; ++i) {
                double norm = 0;
                for (int64_t j = p.d - p.C; j < p.d; ++j) x[i * p.d + j] = 0;
                for (int64_t j = 0; j < p.d; ++j) norm += x[i * p.d + j] * x[i * p.d + j];
                for (int64_t j = 0; j < p.d && norm > 0; ++j) x[i * p.d + j] /= std::sqrt(norm);
            }
        };
        unit(Zn);
        for (int64_t i = 0; i < p.N; ++i) {
            std::vector<double> l(p.K);
            double top = -1e300, sum = 0;
            for (int64_t k = 0; k < p.K; ++k) {
                double dot = 0;
                for (int64_t j = 0; j < p.d; ++j) dot += Zn[i * p.d + j] * p.Y[k * p.d + j];
                l[k] = -2 * (1 - dot) / p.sigma[k];
                for (int64_t f = 0; penalised && f < p.F; ++f)
                    l[k] += p.logp[(p.block[i] * p.B + p.joint_levels[p.joint[i] * p.F + f]) * p.K + k];
                top = std::max(top, l[k]);
            }
            for (double x : l) sum += std::exp(x - top);
            log_z[i] = top + std::log(sum);
            for (int64_t k = 0; k < p.K; ++k) {
                R[i * p.K + k] = std::exp(l[k] - log_z[i]);
                for (int64_t f = 0; f < p.F; ++f)
                    for (int64_t j = 0; j < p.d; ++j)
                        Zc[i * p.d + j] -=
                            R[i * p.K + k] * p.W[(p.joint_levels[p.joint[i] * p.F + f] * p.K + k) * p.d + j];
                for (int64_t c = 0; c < p.C; ++c)
                    for (int64_t j = 0; j < p.d; ++j)
                        Zc[i * p.d + j] -=
                            p.Z[i * p.d + p.d - p.C + c] * R[i * p.K + k] * p.W[((p.B + c) * p.K + k) * p.d + j];
            }
            for (int64_t j = p.d - p.C; j < p.d; ++j) Zc[i * p.d + j] = 0;
        }
        Zn_new = Zc;
        unit(Zn_new);
        add_up(p);
    }

    void add_up(const Problem& p) {
        const int64_t narrow = p.d - p.C, wide = (1 + p.C) * p.d;
        for (int64_t i = 0; i < p.N; ++i) {
            emitted.insert(emitted.end(), Zc.begin() + i * p.d, Zc.begin() + i * p.d + narrow);
            for (int64_t k = 0; k < p.K; ++k) {
                const double r = R[i * p.K + k];
                const int64_t g = p.block[i], jk = p.joint[i] * p.K + k;
                for (int64_t f = 0; f < p.F; ++f) mass[g][p.joint_levels[p.joint[i] * p.F + f] * p.K + k] += r;
                sums[g][0] += p.sigma[k] * r * log_z[i];
                if (r > 0) sums[g][1] += p.sigma[k] * r * std::log(r);
                joint_mass[jk] += r;
                for (int64_t j = 0; j < p.d; ++j) {
                    moment[g][k * p.d + j] += r * Zn[i * p.d + j];
                    corrected_moment[k * p.d + j] += r * Zn_new[i * p.d + j];
                    emitted_moment[k * p.d + j] += r * Zc[i * p.d + j];
                }
                for (int64_t j = 0; j < wide; ++j)
                    S[jk * wide + j] +=
                        r * p.Z[i * p.d + j % p.d] * (j < p.d ? 1 : p.Z[i * p.d + narrow + j / p.d - 1]);
            }
        }
    }
};

// A problem and its truth, without penalties and with them.
struct Case {
    Problem p;
    Truth plain{p, false}, penalised{p, true};
};

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    double most = 0, scale = 1;
    for (size_t i = 0; i < a.size(); ++i) {
        // Written so that a NaN counts as a difference.
        if (!(std::abs(a[i] - b[i]) <= most)) most = std::isnan(a[i] - b[i]) ? 1e300 : std::abs(a[i] - b[i]);
        scale = std::max(scale, std::abs(b[i]));
    }
    return most / scale;
}

template <typename T>
void test(const Case& of, const InstructionSet& set, int n_threads, const std::string& name) {
    const Problem& p = of.p;
    const double tolerance = sizeof(T) == 4 ? 3e-5 : 1e-11;
    const Centroids c{p.Y.data(), p.sigma.data(), p.K};
    Cells<T> cells(p.plan(), p.d, p.Z.data(), p.d, 1, set, n_threads, nullptr);
    for (bool penalised : {false, true}) {
        const Truth& truth = penalised ? of.penalised : of.plain;
        for (int64_t g = 0; g < p.n_blocks; ++g) {
            std::vector<double> mass(p.B * p.K, 7), moment(p.K * p.d, 7);
            const double* logp = penalised ? p.logp.data() + g * p.B * p.K : nullptr;
            const double log_partition = cells.sweep(g, c, logp, mass.data(), moment.data(), penalised, nullptr);
            check(largest_difference(mass, truth.mass[g]) < tolerance, name + " sweep mass");
            check(largest_difference(moment, truth.moment[g]) < tolerance, name + " sweep moment");
            check(largest_difference({log_partition}, {truth.sums[g][0]}) < tolerance, name + " log-partition");
        }
    }
    const Truth& truth = of.penalised;
    double entropy = 0;
    for (const auto& sums : truth.sums) entropy += sums[1];
    std::vector<double> S(truth.S.size(), 7), mass(p.J * p.K, 7);
    // The penalised sweeps above were a last pass, so the first call returns their sums, and the second makes its own.
    for (const char* how : {" collected", " computed"}) {
        std::fill(S.begin(), S.end(), 7);
        std::fill(mass.begin(), mass.end(), 7);
        const double found = cells.moments(c, p.logp.data(), S.data(), mass.data(), nullptr);
        check(largest_difference({found}, {entropy}) < tolerance, name + " entropy" + how);
        check(largest_difference(S, truth.S) < tolerance, name + " moments" + how);
        check(largest_difference(mass, truth.joint_mass) < tolerance, name + " moments mass" + how);
    }

    std::vector<T> R(p.N * p.K, 7);
    cells.assign(c, p.logp.data(), p.order.data(), R.data(), nullptr);
    check(largest_difference({R.begin(), R.end()}, truth.R) < tolerance, name + " assign");

    std::vector<float> out32(truth.emitted.size(), 7);
    std::vector<double> out64(truth.emitted.size(), 7);
    std::vector<double> moment(p.K * p.d, 7), Zn(p.N * p.d);
    cells.emit(c, p.logp.data(), p.W.data(), moment.data(), out32.data(), nullptr, nullptr);
    cells.emit(c, p.logp.data(), p.W.data(), nullptr, nullptr, out64.data(), nullptr);
    check(largest_difference({out32.begin(), out32.end()}, truth.emitted) < 3e-5, name + " emit float");
    check(largest_difference(out64, truth.emitted) < tolerance, name + " emit double");
    check(largest_difference(moment, truth.emitted_moment) < tolerance, name + " emit moment");

    cells.correct(c, p.logp.data(), p.W.data(), moment.data(), nullptr);
    for (int64_t i = 0; i < p.N; ++i)
        for (int64_t j = 0; j < p.d; ++j) Zn[p.order[i] * p.d + j] = (double)cells.Zn()[i * p.d + j];
    check(largest_difference(moment, truth.corrected_moment) < tolerance, name + " correct moment");
    check(largest_difference(Zn, truth.Zn_new) < 10 * tolerance, name + " correct");
}

// Everything that cells can be asked, as a first round and a second do.
template <typename T>
std::vector<double> answers(const Problem& p, Cells<T>& asked) {
    const Centroids c{p.Y.data(), p.sigma.data(), p.K};
    std::vector<double> all;
    auto keep = [&](const auto& values) { all.insert(all.end(), values.begin(), values.end()); };
    std::vector<double> mass(p.B * p.K), moment(p.K * p.d), S(p.J * p.K * (1 + p.C) * p.d), joint_mass(p.J * p.K);
    std::vector<T> R(p.N * p.K);
    for (bool last : {false, true}) {
        for (bool penalised : {false, true})
            for (int64_t g = 0; g < p.n_blocks; ++g) {
                const double* logp = penalised ? p.logp.data() + g * p.B * p.K : nullptr;
                const bool moves = penalised && last;
                const double log_partition =
                    asked.sweep(g, c, logp, mass.data(), moves ? moment.data() : nullptr, last, nullptr);
                keep(mass), keep(moment), keep(std::vector<double>{log_partition});
            }
        keep(std::vector<double>{asked.moments(c, p.logp.data(), S.data(), joint_mass.data(), nullptr)});
        keep(S), keep(joint_mass);
        asked.assign(c, p.logp.data(), p.order.data(), R.data(), nullptr);
        keep(R);
        asked.correct(c, p.logp.data(), p.W.data(), last ? moment.data() : nullptr, nullptr);
        keep(moment);
    }
    asked.assign(c, p.logp.data(), p.order.data(), R.data(), nullptr);
    keep(R);
    return all;
}

// Bytes that hold the weights of all blocks, and of some.
template <typename T>
int64_t kept_bytes(const Problem& p, bool all) {
    const int64_t rows = all ? p.N : p.segment_start[p.block_segment[p.n_blocks / 2 + 1]];
    return rows * ((p.K + 15) / 16 * 16) * (int64_t)sizeof(T);
}

// The answers are the same with weights that are kept.
template <typename T>
void test_kept(const Problem& p, const InstructionSet& set, int n_threads, const std::string& name) {
    Cells<T> none(p.plan(), p.d, p.Z.data(), p.d, 1, set, 1, nullptr);
    const std::vector<double> expected = answers(p, none);
    for (bool all : {false, true}) {
        Cells<T> cells(p.plan(), p.d, p.Z.data(), p.d, 1, set, n_threads, nullptr);
        cells.keep_weights(kept_bytes<T>(p, all));
        check(answers(p, cells) == expected, name + (all ? " all kept" : " some kept"));
    }
}

// Where weights are kept, Zn is not looked at: it may be anything. Afterwards it is what it was.
template <typename T>
void check_weights_are_read(const Problem& p, Cells<T>& cells, std::FILE* file, const std::string& name) {
    const Centroids c{p.Y.data(), p.sigma.data(), p.K};
    if (*std::min_element(p.sigma.begin(), p.sigma.end()) < 4 / DEEPEST<T>) return;
    const int64_t g = p.n_blocks > 1 ? 1 : 0;
    std::vector<double> expected(p.B * p.K), mass(p.B * p.K);
    std::vector<T> Zn(p.N * p.d), other(p.N * p.d, 0);
    auto sweep = [&](const double* logp, std::vector<double>& to) {
        cells.sweep(g, c, logp, to.data(), nullptr, false, nullptr);
    };
    auto transfer = [&](auto call, std::vector<T>& rows) {
        std::fseek(file, (long)(p.N * p.d * sizeof(T)), SEEK_SET);
        check(call(rows.data(), sizeof(T), rows.size(), file) == rows.size(), name + " Zn in the file");
        std::fflush(file);
    };
    sweep(nullptr, mass);
    sweep(p.logp.data(), expected);
    transfer(std::fread, Zn);
    transfer(std::fwrite, other);
    sweep(p.logp.data(), mass);
    check(mass == expected, name + " weights are read");
    cells.release();
    sweep(p.logp.data(), mass);
    check(mass != expected || p.N < 97, name + " weights are released");
    transfer(std::fwrite, Zn);
}

// Cells in a file answer with the same bits as those in memory.
template <typename T>
void test_file(const Problem& p, const InstructionSet& set, int n_threads, bool kept, const std::string& name) {
#ifndef _WIN32
    const Centroids c{p.Y.data(), p.sigma.data(), p.K};
    Plan plan = p.plan();
    Cells<T> memory(plan, p.d, p.Z.data(), p.d, 1, set, n_threads, nullptr);
    plan.order = {};
    std::FILE* file = std::tmpfile();
    std::vector<T> Z(p.N * p.d);
    for (int64_t i = 0; i < p.N; ++i)
        for (int64_t j = 0; j < p.d; ++j) Z[i * p.d + j] = (T)p.Z[p.order[i] * p.d + j];
    std::fwrite(Z.data(), sizeof(T), Z.size(), file);
    std::fflush(file);
    Cells<T> cells(plan, p.d, fileno(file), set, n_threads, nullptr);
    cells.keep_weights(kept ? kept_bytes<T>(p, false) : 0);
    check(answers(p, cells) == answers(p, memory), name + " in a file");
    if (kept) check_weights_are_read(p, cells, file, name);
    std::vector<T> Zc(p.N * p.d);
    const int64_t narrow = p.d - p.C;
    std::vector<float> want32(sizeof(T) == 4 ? p.N * narrow : 0);
    std::vector<double> want64(sizeof(T) == 8 ? p.N * narrow : 0);
    std::vector<double> want_moment(p.K * p.d), moment(p.K * p.d);
    memory.emit(c, p.logp.data(), p.W.data(), want_moment.data(), want32.empty() ? nullptr : want32.data(),
                want64.empty() ? nullptr : want64.data(), nullptr);
    cells.emit_in_place(c, p.logp.data(), p.W.data(), moment.data(), nullptr);
    check(moment == want_moment, name + " emitted moment in a file");
    std::rewind(file);
    check(std::fread(Zc.data(), sizeof(T), Zc.size(), file) == Zc.size(), name + " file size");
    bool same = true;
    for (int64_t i = 0; i < p.N; ++i)
        for (int64_t j = 0; j < p.d; ++j) {
            const int64_t at = p.order[i] * narrow + j;
            const T want = j >= narrow ? Z[i * p.d + j] : sizeof(T) == 4 ? (T)want32[at] : (T)want64[at];
            same = same && Zc[i * p.d + j] == want;
        }
    check(same, name + " emitted in a file");
    std::fclose(file);
    bool thrown = false;
    try {
        cells.correct(c, p.logp.data(), p.W.data(), nullptr, nullptr);
    } catch (const std::system_error&) {
        thrown = true;
    }
    check(thrown, name + " a file that is gone");
#endif
}

template <typename T>
void test_all(const Case& of, const InstructionSet& set, int n_threads, const std::string& name) {
    test<T>(of, set, n_threads, name);
    test_kept<T>(of.p, set, n_threads, name);
    for (bool kept : {false, true}) test_file<T>(of.p, set, n_threads, kept, name);
}

// A plan with one value changed, taken away or added is refused, or the cells that it makes stay within their memory.
template <typename Array>
void test_hostile_array(const Problem& valid, Array Problem::* array, const InstructionSet& set, int64_t& refused) {
    using Value = typename Array::value_type;
    const Array& values = valid.*array;
    auto run = [&](const Array& changed) {
        Problem p = valid;
        // A fresh array without spare room, so that the sanitizer sees a read past its end.
        p.*array = Array(changed.begin(), changed.end());
        Plan plan = p.unchecked();
        try {
            plan.check();
        } catch (const std::invalid_argument&) {
            ++refused;
            return;
        }
        if (plan.n_cells > p.N || plan.order.size == 0) return; // which the bindings refuse
        const Centroids c{p.Y.data(), p.sigma.data(), p.K};
        const int64_t n_tables = plan.n_blocks * plan.n_levels * p.K;
        std::vector<double> logp(n_tables), mass(plan.n_levels * p.K), S(plan.n_joint * p.K * p.d),
            joint_mass(plan.n_joint * p.K), moment(p.K * p.d), out(plan.n_cells * p.d);
        std::vector<float> R(plan.n_cells * p.K);
        Cells<float> cells(plan, p.d, p.Z.data(), p.d, 1, set, 2, nullptr);
        for (int64_t g = 0; g < plan.n_blocks; ++g)
            cells.sweep(g, c, nullptr, mass.data(), moment.data(), true, nullptr);
        for (int i = 0; i < 2; ++i) cells.moments(c, logp.data(), S.data(), joint_mass.data(), nullptr);
        cells.correct(c, logp.data(), p.W.data(), moment.data(), nullptr);
        cells.emit(c, logp.data(), p.W.data(), nullptr, nullptr, out.data(), nullptr);
        cells.assign(c, logp.data(), p.order.data(), R.data(), nullptr);
        for (double x : out) check(std::isfinite(x), "a hostile plan gives finite results");
    };
    for (size_t i = 0; i < values.size(); ++i)
        for (Value value : {(Value)-1, (Value)0, (Value)(values[i] + 1), (Value)(values[i] - 1), (Value)7,
                            std::numeric_limits<Value>::max(), std::numeric_limits<Value>::min()}) {
            Array changed = values;
            changed[i] = value;
            run(changed);
        }
    Array shorter = values, longer = values;
    shorter.pop_back();
    longer.push_back(longer.back());
    run(shorter), run(longer), run({});
}

void test_hostile_plans(const InstructionSet& set) {
    const Problem p(60, 3, 2, {2, 2}, 3, 8, true, 0.1, 1);
    int64_t refused = 0;
    for (auto array : {&Problem::segment_joint, &Problem::segment_block, &Problem::joint_levels})
        test_hostile_array(p, array, set, refused);
    for (auto array : {&Problem::order, &Problem::segment_start, &Problem::block_segment, &Problem::block_grain,
                       &Problem::grain_segment, &Problem::by_joint, &Problem::unit_segment})
        test_hostile_array(p, array, set, refused);
    check(refused > 500, "most hostile plans are refused");
}

// Every worker is asked once a call, whatever calls came before, also in a forked child and after the threads ended.
void test_team() {
    Team team;
    auto asks_each_once = [&](int n_workers) {
        std::vector<std::atomic<int>> asked(n_workers);
        team.run(n_workers, [&](int worker) { ++asked[worker]; });
        return std::all_of(asked.begin(), asked.end(), [](const std::atomic<int>& n) { return n == 1; });
    };
    bool each_once = true;
    for (int call = 0; call < 300; ++call) each_once = each_once && asks_each_once(1 + call % 5);
    check(each_once, "a team asks every worker once");
    // The sanitizer of threads ends a forked child that starts threads.
#if !defined(_WIN32) && !defined(__SANITIZE_THREAD__)
    const pid_t child = fork();
    if (child == 0) _exit(asks_each_once(4) && asks_each_once(3) ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    check(status == 0, "a forked child has a team of its own");
#endif
    team.release();
    check(asks_each_once(3), "a team that was released works again");
    std::vector<int> answers(4);
    std::vector<std::thread> callers;
    for (int& answer : answers)
        callers.emplace_back([&] {
            answer = 1;
            for (int call = 0; call < 50; ++call) answer &= asks_each_once(3);
        });
    for (std::thread& caller : callers) caller.join();
    check(answers == std::vector<int>(4, 1), "calls from several threads wait for each other");
}

void test_poll_stops(const InstructionSet& set) {
    // Sleeping work, so that the poll is asked; after it says stop, the call must throw and start no more items.
    Team team;
    std::atomic<int> done{0};
    bool thrown = false;
    try {
        parallel_for(
            team, 1000, 3, [] { return true; },
            [&](int64_t, int) {
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
                ++done;
            });
    } catch (const Interrupted&) {
        thrown = true;
    }
    check(thrown && done < 200, "an interrupt stops the work");
    thrown = false;
    try {
        parallel_for(team, 100, 3, nullptr, [](int64_t item, int) {
            if (item == 50) throw std::runtime_error("item 50");
        });
    } catch (const std::runtime_error& error) {
        thrown = std::string(error.what()) == "item 50";
    }
    check(thrown, "an error in a worker reaches the caller");
    (void)set;
}

} // namespace

#ifdef __SANITIZE_THREAD__
constexpr unsigned EVERY = 5;
#else
constexpr unsigned EVERY = 1;
#endif

// Arguments: numbers of threads, 1 and 3 where none is given.
int main(int n_arguments, char** arguments) {
    std::vector<int> threads;
    for (int i = 1; i < n_arguments; ++i) threads.push_back(std::stoi(arguments[i]));
    if (threads.empty()) threads = {1, 3};
    struct Size {
        int64_t N, d, K;
        std::vector<int64_t> levels;
        int64_t n_blocks, grain;
    };
    const Size sizes[] = {{1, 1, 1, {1}, 1, 8},       {5, 3, 2, {2}, 3, 2},          {97, 16, 16, {3}, 4, 40},
                          {400, 17, 33, {4}, 5, 130}, {600, 50, 100, {2, 3}, 4, 97}, {300, 7, 65, {3, 2, 2}, 3, 50},
                          {250, 31, 5, {40}, 6, 31},  {150, 12, 20, {2, 2}, 3, 40},  {700, 9, 12, {3}, 2, 5}};
    unsigned seed = 0, asked = 0;
    for (const Size& s : sizes)
        for (bool one_sigma : {true, false})
            for (double least_sigma : {0.1, 0.05}) {
                Problem p(s.N, s.d, s.K, s.levels, s.n_blocks, s.grain, one_sigma, least_sigma, ++seed);
                // Of some features, where that leaves whole vectors and parts of one.
                if (s.d > 6 && s.d < 32 && seed % 3 > 0) p.with_covariates(seed % 3);
                const Case of{p};
                for (const char* set_name : instruction_sets())
                    for (int n_threads : threads) {
                        // The sanitizer of threads takes ten times as long; these do the same for other numbers.
                        if (++asked % EVERY != 0) continue;
                        const InstructionSet& set = instruction_set(set_name);
                        const std::string name = std::string(set_name) + " N=" + std::to_string(s.N) +
                                                 " covariates=" + std::to_string(of.p.C) + " d=" + std::to_string(s.d) +
                                                 " K=" + std::to_string(s.K) + " sigma=" + std::to_string(least_sigma);
                        test_all<float>(of, set, n_threads, name + " float");
                        test_all<double>(of, set, n_threads, name + " double");
                    }
            }
    for (const char* set_name : instruction_sets()) {
        test_poll_stops(instruction_set(set_name));
        test_hostile_plans(instruction_set(set_name));
    }
    test_team();
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
