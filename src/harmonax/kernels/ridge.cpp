#include "ridge.hpp"

#include <algorithm>
#include <cmath>

namespace harmonax {
namespace {

// Of the tables that a group of clusters is solved in: more do not stay in the cache.
constexpr int64_t MAX_GROUP = 8, GROUP_VALUES = 1 << 17;

void add(const double* from, double factor, int64_t n, double* to) {
    for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

double dot(const double* a, const double* b, int64_t n) {
    double sums[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
    for (; i < n; ++i) sums[0] += a[i] * b[i];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// Which unknowns occur together. Unknown 0 is the intercept; then come the levels outside the largest variable.
struct Overlaps {
    int64_t q;                                   // unknowns
    std::vector<int64_t> joint, joint_start;     // joint levels by level of the largest variable, and where each begins
    std::vector<int64_t> unknown, unknown_start; // unknowns that occur with each of those, ascending
    std::vector<int64_t> place; // of each joint level's levels among them, n_joint x n_variables; not of the largest

    explicit Overlaps(const RidgeSystem& s) : q(1 + s.n_levels - (s.stop - s.first)), joint(s.n_joint) {
        const int64_t n_own = s.stop - s.first;
        joint_start.assign(n_own + 1, 0);
        auto own = [&](int64_t j) { return s.joint_levels[j * s.n_variables + s.largest] - s.first; };
        for (int64_t j = 0; j < s.n_joint; ++j) ++joint_start[own(j) + 1];
        for (int64_t l = 0; l < n_own; ++l) joint_start[l + 1] += joint_start[l];
        std::vector<int64_t> next(joint_start.begin(), joint_start.end() - 1);
        for (int64_t j = 0; j < s.n_joint; ++j) joint[next[own(j)]++] = j;
        place.assign(s.n_joint * s.n_variables, 0);
        unknown_start.push_back(0);
        std::vector<int64_t> here;
        for (int64_t l = 0; l < n_own; ++l) {
            here.assign(1, 0);
            each_level(s, l, [&](int64_t, int64_t, int64_t level) { here.push_back(unknown_of(s, level)); });
            std::sort(here.begin(), here.end());
            here.erase(std::unique(here.begin(), here.end()), here.end());
            each_level(s, l, [&](int64_t j, int64_t f, int64_t level) {
                const auto found = std::lower_bound(here.begin(), here.end(), unknown_of(s, level));
                place[j * s.n_variables + f] = found - here.begin();
            });
            unknown.insert(unknown.end(), here.begin(), here.end());
            unknown_start.push_back((int64_t)unknown.size());
        }
    }

    static int64_t unknown_of(const RidgeSystem& s, int64_t level) {
        return 1 + (level < s.first ? level : level - (s.stop - s.first));
    }

    // Call body(joint level, variable, level) for the levels that level l of the largest variable occurs with.
    template <typename Body>
    void each_level(const RidgeSystem& s, int64_t l, const Body& body) const {
        for (int64_t i = joint_start[l]; i < joint_start[l + 1]; ++i)
            for (int64_t f = 0; f < s.n_variables; ++f)
                if (f != s.largest) body(joint[i], f, s.joint_levels[joint[i] * s.n_variables + f]);
    }
};

// One cluster's system: rows and columns of the unknowns that are not eliminated, of which only the lower triangle is
// used, and right-hand sides.
struct Cluster {
    const RidgeSystem& s;
    const Overlaps& o;
    int64_t k;
    std::vector<double> A, x, diagonal, c;

    Cluster(const RidgeSystem& system, const Overlaps& overlaps, int64_t cluster)
        : s(system), o(overlaps), k(cluster), A(o.q * o.q, 0.0), x(o.q * s.d, 0.0), diagonal(o.q, 0.0), c(o.q, 0.0) {
        std::copy_n(s.anchor_moment + k * s.d, s.d, x.begin());
        A[0] = diagonal[0] = s.anchor_mass[k];
    }

    bool kept(int64_t level) const { return s.keep[level * s.K + k]; }
    const double* S(int64_t j) const { return s.S + (j * s.K + k) * s.d; }
    double mass(int64_t j) const { return s.mass[j * s.K + k]; }
    bool active(int64_t j) const { return s.active[j * s.K + k]; }
    int64_t level(int64_t j, int64_t f) const { return s.joint_levels[j * s.n_variables + f]; }

    // The row of level l of the largest variable but for its diagonal, into c, which is returned.
    double own_row(int64_t l) {
        const int64_t n = o.unknown_start[l + 1] - o.unknown_start[l];
        std::fill_n(c.begin(), n, 0.0);
        for (int64_t i = o.joint_start[l]; i < o.joint_start[l + 1]; ++i)
            if (active(o.joint[i])) c[0] += mass(o.joint[i]);
        o.each_level(s, l, [&](int64_t j, int64_t f, int64_t other) {
            if (active(j) && kept(other)) c[o.place[j * s.n_variables + f]] += mass(j);
        });
        return c[0] + s.lambda[(s.first + l) * s.K + k];
    }

    // Sum up what the cells of level l of the largest variable add, and eliminate that level. b: its right-hand side.
    void take(int64_t l, double* b) {
        const int64_t own = s.first + l, d = s.d;
        std::fill_n(b, d, 0.0);
        for (int64_t i = o.joint_start[l]; i < o.joint_start[l + 1]; ++i) {
            if (!active(o.joint[i])) continue;
            add_joint(o.joint[i]);
            if (kept(own)) add(S(o.joint[i]), 1, d, b);
        }
        if (!kept(own)) return;
        const double D = own_row(l);
        const int64_t* u = o.unknown.data() + o.unknown_start[l];
        const int64_t n = o.unknown_start[l + 1] - o.unknown_start[l];
        for (int64_t p = 0; p < n; ++p) {
            if (c[p] == 0) continue;
            const double scaled = c[p] / D;
            for (int64_t r = 0; r <= p; ++r) A[u[p] * o.q + u[r]] -= scaled * c[r];
            add(b, -scaled, d, x.data() + u[p] * d);
        }
    }

    void add_joint(int64_t j) {
        const double m = mass(j);
        for (int64_t f = 0; f < s.n_variables; ++f) {
            if (f == s.largest || !kept(level(j, f))) continue;
            const int64_t u = Overlaps::unknown_of(s, level(j, f));
            add(S(j), 1, s.d, x.data() + u * s.d);
            diagonal[u] += m;
            A[u * o.q] += m;
            for (int64_t g = 0; g <= f; ++g)
                if (g != s.largest && kept(level(j, g))) A[u * o.q + Overlaps::unknown_of(s, level(j, g))] += m;
        }
        A[0] += m, diagonal[0] += m;
        add(S(j), 1, s.d, x.data());
    }

    // Solve for what was not eliminated, in place of x; return whether that is singular.
    bool solve(double least) {
        const int64_t q = o.q, d = s.d;
        for (int64_t level = 0; level < s.n_levels; ++level) {
            if (level >= s.first && level < s.stop) continue;
            const int64_t u = Overlaps::unknown_of(s, level);
            // What is not kept has a row of the identity.
            const double penalty = kept(level) ? s.lambda[level * s.K + k] : 1.0;
            A[u * q + u] += penalty, diagonal[u] += penalty;
        }
        bool singular = false;
        for (int64_t i = 0; i < q; ++i) {
            double* row = A.data() + i * q;
            for (int64_t j = 0; j < i; ++j) {
                row[j] = (row[j] - dot(row, A.data() + j * q, j)) / A[j * q + j];
                if (row[j] != 0) add(x.data() + j * d, -row[j], d, x.data() + i * d);
            }
            const double pivot = row[i] - dot(row, row, i);
            const bool bad = !(pivot > least * diagonal[i]);
            singular |= bad;
            row[i] = bad ? 1.0 : std::sqrt(pivot);
            for (int64_t j = 0; j < d; ++j) x[i * d + j] /= row[i];
        }
        for (int64_t i = q - 1; i >= 0; --i) {
            double* own = x.data() + i * d;
            for (int64_t j = 0; j < d; ++j) own[j] /= A[i * q + i];
            for (int64_t r = 0; r < i; ++r)
                if (A[i * q + r] != 0) add(own, -A[i * q + r], d, x.data() + r * d);
        }
        return singular;
    }

    // The coefficients of level l of the largest variable, in place of its right-hand side.
    void give(int64_t l, double* b) {
        if (!kept(s.first + l)) return;
        const double D = own_row(l);
        const int64_t* u = o.unknown.data() + o.unknown_start[l];
        for (int64_t p = 0; p < o.unknown_start[l + 1] - o.unknown_start[l]; ++p)
            if (c[p] != 0) add(x.data() + u[p] * s.d, -c[p], s.d, b);
        for (int64_t j = 0; j < s.d; ++j) b[j] /= D;
    }
};

} // namespace

void solve_ridge(const RidgeSystem& s, double least, double* W, double* W0, bool* singular, int n_threads,
                 const Poll& poll) {
    const Overlaps overlaps(s);
    // Neighbouring clusters lie together in S and W: a few at a time, where their systems are small.
    const int64_t room = GROUP_VALUES / (overlaps.q * (overlaps.q + s.d));
    const int64_t group = std::clamp<int64_t>(std::min(room, s.K / (4 * n_threads)), 1, MAX_GROUP);
    Team team;
    parallel_for(team, (s.K + group - 1) / group, n_threads, poll, [&](int64_t item, int) {
        std::vector<Cluster> clusters;
        for (int64_t k = item * group; k < std::min(s.K, (item + 1) * group); ++k)
            clusters.emplace_back(s, overlaps, k);
        auto row = [&](int64_t level, const Cluster& c) { return W + (level * s.K + c.k) * s.d; };
        for (int64_t l = 0; l < s.stop - s.first; ++l)
            for (Cluster& c : clusters) c.take(l, row(s.first + l, c));
        for (Cluster& c : clusters) {
            singular[c.k] = c.solve(least);
            std::copy_n(c.x.begin(), s.d, W0 + c.k * s.d);
            for (int64_t level = 0; level < s.n_levels; ++level)
                if (level < s.first || level >= s.stop)
                    std::copy_n(c.x.begin() + Overlaps::unknown_of(s, level) * s.d, s.d, row(level, c));
        }
        for (int64_t l = 0; l < s.stop - s.first; ++l)
            for (Cluster& c : clusters) c.give(l, row(s.first + l, c));
    });
}

} // namespace harmonax
