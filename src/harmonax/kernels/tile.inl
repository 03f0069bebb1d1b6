// The tile kernels, in one source for every instruction set. The including file defines HX_NAMESPACE and HX_BYTES, the
// width of a vector, and is compiled with that set's flags.
//
// A tile is TILE cells. Its logits are a small dense product Zn Y^T; a softmax per row turns them into R, which lives
// in scratch only until its sums are taken. docs/algorithm.md, "The streaming form", has the derivation; the plain
// statement is cells/dense.py, and tests/cells/test_memory.py compares the two.
//
// Vectors run over clusters (or features), never over cells: each cell may then have its own penalty row, and short
// runs cost nothing. GCC's and Clang's vector extensions keep this free of intrinsics.
#include "tile.hpp"

#include <math.h>
#include <string.h>

namespace harmonax {
namespace HX_NAMESPACE {
namespace {

constexpr int ROWS = HX_ROWS; // rows of a register block
constexpr int VECTORS =
    HX_VECTORS;              // and its vectors: ROWS * VECTORS accumulators, plus VECTORS operands and a broadcast
constexpr int64_t TILE = 96; // cells, a multiple of ROWS; their R stays in the second-level cache

template <typename T>
struct Vec;
template <>
struct Vec<float> {
    typedef float type __attribute__((vector_size(HX_BYTES), aligned(4), may_alias));
    typedef int32_t bits __attribute__((vector_size(HX_BYTES)));
    typedef uint32_t words __attribute__((vector_size(HX_BYTES)));
};
template <>
struct Vec<double> {
    typedef double type __attribute__((vector_size(HX_BYTES), aligned(8), may_alias));
    typedef int64_t bits __attribute__((vector_size(HX_BYTES)));
    typedef uint64_t words __attribute__((vector_size(HX_BYTES)));
};
template <typename T>
constexpr int64_t LANES = HX_BYTES / sizeof(T);

template <typename T>
inline typename Vec<T>::type load(const T* p) {
    return *(const typename Vec<T>::type*)p;
}
template <typename T>
inline void store(T* p, typename Vec<T>::type v) {
    *(typename Vec<T>::type*)p = v;
}
template <typename T>
inline typename Vec<T>::type all(T x) {
    return x - typename Vec<T>::type{};
}

template <typename V>
inline V larger(V a, V b) {
    return a > b ? a : b;
}

inline int64_t padded(int64_t n, int64_t width) { return (n + width - 1) / width * width; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// exp(x) for x <= 0. Below the smallest normal number it stays there: such an R_ik is 0 for every purpose.
// The exponent is added to words without a sign, which wrap around where x is absurd: signed ones may not.
inline Vec<float>::type exp_nonpositive(Vec<float>::type x) {
    // Cephes' expf: x = n ln 2 + r, then a polynomial in r. Adding and taking away 1.5 * 2^23 rounds to an integer.
    typedef Vec<float>::type V;
    typedef Vec<float>::words I;
    V shifted = x * 1.44269504088896341f + 12582912.0f;
    V n = shifted - 12582912.0f;
    V r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    V y = p * (r * r) + r + 1.0f;
    return (V)((I)y + ((I)shifted << 23));
}
inline Vec<double>::type exp_nonpositive(Vec<double>::type x) {
    typedef Vec<double>::type V;
    typedef Vec<double>::words I;
    V shifted = x * 1.4426950408889634074 + 6755399441055744.0;
    V n = shifted - 6755399441055744.0;
    V r = x - n * 6.93145751953125e-1;
    r = r - n * 1.42860682030941723212e-6;
    const double c[] = {1.6059043836821613e-10, 2.08767569878681e-9,   2.505210838544172e-8,  2.755731922398589e-7,
                        2.7557319223985893e-6,  2.48015873015873e-5,   1.984126984126984e-4,  1.388888888888889e-3,
                        8.333333333333333e-3,   4.1666666666666664e-2, 1.6666666666666666e-1, 0.5};
    V p = all<double>(c[0]);
    for (int i = 1; i < 12; ++i) p = p * r + c[i];
    V y = p * (r * r) + r + 1.0;
    return (V)((I)y + ((I)shifted << 52));
}
template <typename T>
constexpr T EXP_MIN = sizeof(T) == 4 ? T(-87.0) : T(-708.0);

// ln(a) for normal numbers a > 0, within 1e-7 and 1e-15: a = 2^e (1 + f) with 1 + f between sqrt(1/2) and sqrt(2).
inline Vec<float>::type ln(Vec<float>::type a) {
    typedef Vec<float>::type V;
    typedef Vec<float>::bits I;
    const I bits = (I)a, e = (bits - 0x3f3504f3) >> 23;
    const V f = (V)(bits - (e << 23)) - 1.0f;
    V p = f * -0.101289721f + 0.160935588f;
    p = p * f - 0.171748351f;
    p = p * f + 0.199154815f;
    p = p * f - 0.249805255f;
    p = p * f + 0.333345814f;
    return __builtin_convertvector(e, V) * 0.693147181f + (f + (f * f) * (f * p - 0.5f));
}
inline Vec<double>::type ln(Vec<double>::type a) {
    typedef Vec<double>::type V;
    typedef Vec<double>::bits I;
    const I bits = (I)a, e = (bits - 0x3fe6a09e667f3bcd) >> 52;
    const V f = (V)(bits - (e << 52)) - 1.0;
    // 2 artanh(s), s at most 0.172.
    const V s = f / (f + 2.0), square = s * s;
    V p = all<double>(2.0 / 19);
    for (int i = 17; i > 0; i -= 2) p = p * square + 2.0 / i;
    return __builtin_convertvector(e, V) * 0.69314718055994530942 + p * s;
}

#if !defined(__clang__) && __GNUC__ < 12
#define HX_SHUFFLE(v, ...) __builtin_shuffle(v, decltype(v < v){__VA_ARGS__})
#else
#define HX_SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#endif

// Fold a vector by halves, in a fixed order; every lane of the last step holds the result.
template <typename V>
inline V half_swapped(V v, int half) {
    // Lane i and lane i ^ half change places.
    if constexpr (sizeof(V) / sizeof(v[0]) == 16) {
        if (half == 8) return HX_SHUFFLE(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
        if (half == 4) return HX_SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
        if (half == 2) return HX_SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
        return HX_SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    } else if constexpr (sizeof(V) / sizeof(v[0]) == 8) {
        if (half == 4) return HX_SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3);
        if (half == 2) return HX_SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5);
        return HX_SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6);
    } else if constexpr (sizeof(V) / sizeof(v[0]) == 4) {
        if (half == 2) return HX_SHUFFLE(v, 2, 3, 0, 1);
        return HX_SHUFFLE(v, 1, 0, 3, 2);
    } else {
        return HX_SHUFFLE(v, 1, 0);
    }
}
template <typename T>
inline T sum_of(typename Vec<T>::type v) {
#pragma GCC unroll 4
    for (int half = LANES<T> / 2; half > 0; half /= 2) v += half_swapped(v, half);
    return v[0];
}
template <typename T>
inline T largest_of(typename Vec<T>::type v) {
#pragma GCC unroll 4
    for (int half = LANES<T> / 2; half > 0; half /= 2) v = larger(v, half_swapped(v, half));
    return v[0];
}

// C[r] = A[r] . B for ROWS rows and N vectors of columns. B: depth x (N * W), dense.
template <typename T, int N>
inline void multiply_block(const T* const* A, int64_t depth, const T* B, T* C, int64_t ldc) {
    typedef typename Vec<T>::type V;
    V acc[ROWS][N] = {};
    for (int64_t j = 0; j < depth; ++j) {
        V b[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) b[n] = load(B + (j * N + n) * LANES<T>);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const T a = A[r][j];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) acc[r][n] += a * b[n];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store(C + r * ldc + n * LANES<T>, acc[r][n]);
}

// C (rows x columns) = A (rows x depth) . B, B in panels of at most VECTORS vectors. C has room for whole ROWS.
template <typename T>
void multiply(const T* A, int64_t lda, int64_t rows, int64_t depth, const T* B, int64_t vectors, T* C, int64_t ldc) {
    for (int64_t v = 0; v < vectors; v += VECTORS) {
        const int64_t n = least(VECTORS, vectors - v);
        for (int64_t r = 0; r < rows; r += ROWS) {
            const T* a[ROWS];
            // A partial block repeats its last row; the copies land in the room beyond.
            for (int i = 0; i < ROWS; ++i) a[i] = A + least(r + i, rows - 1) * lda;
            T* c = C + r * ldc + v * LANES<T>;
            if (n == 1) multiply_block<T, 1>(a, depth, B, c, ldc);
            if constexpr (VECTORS >= 2)
                if (n == 2) multiply_block<T, 2>(a, depth, B, c, ldc);
            if constexpr (VECTORS >= 3)
                if (n == 3) multiply_block<T, 3>(a, depth, B, c, ldc);
            if constexpr (VECTORS >= 4)
                if (n == 4) multiply_block<T, 4>(a, depth, B, c, ldc);
        }
        B += depth * n * LANES<T>;
    }
}

// S[q] += sum over rows of A[row][q] R[row], for F features from A on and N vectors; sums in T, added up in double.
template <typename T, int F, int N>
inline void outer_block(const T* A, int64_t lda, const T* R, int64_t ldr, int64_t rows, double* S, int64_t lds) {
    typedef typename Vec<T>::type V;
    V acc[F][N] = {};
    for (int64_t row = 0; row < rows; ++row) {
        V b[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) b[n] = load(R + row * ldr + n * LANES<T>);
        const T* a = A + row * lda;
#pragma GCC unroll 8
        for (int i = 0; i < F; ++i) {
            const T x = a[i];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) acc[i][n] += x * b[n];
        }
    }
    for (int i = 0; i < F; ++i) {
        T sums[N * LANES<T>];
        for (int n = 0; n < N; ++n) store(sums + n * LANES<T>, acc[i][n]);
        for (int64_t k = 0; k < N * LANES<T>; ++k) S[i * lds + k] += (double)sums[k];
    }
}

template <typename T, int N>
inline void outer_panel(const T* A, int64_t lda, int64_t features, const T* R, int64_t ldr, int64_t rows, double* S,
                        int64_t lds) {
    static_assert(ROWS == 6, "one case for every number of rows");
    switch (features) {
    case 1: return outer_block<T, 1, N>(A, lda, R, ldr, rows, S, lds);
    case 2: return outer_block<T, 2, N>(A, lda, R, ldr, rows, S, lds);
    case 3: return outer_block<T, 3, N>(A, lda, R, ldr, rows, S, lds);
    case 4: return outer_block<T, 4, N>(A, lda, R, ldr, rows, S, lds);
    case 5: return outer_block<T, 5, N>(A, lda, R, ldr, rows, S, lds);
    default: return outer_block<T, 6, N>(A, lda, R, ldr, rows, S, lds);
    }
}

// S (d x K_pad) += A^T R, where A's rows of d values begin lda apart.
template <typename T>
void outer(const T* A, int64_t lda, int64_t d, const T* R, int64_t K_pad, int64_t rows, double* S) {
    const int64_t vectors = K_pad / LANES<T>, pieces = (d + ROWS - 1) / ROWS;
    for (int64_t v = 0; v < vectors; v += VECTORS) {
        const int64_t n = least(VECTORS, vectors - v);
        const T* r = R + v * LANES<T>;
        // Features in pieces as even as can be: 50 is 5 x 6 + 4 x 5, not 8 x 6 + 2.
        for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t q = piece * d / pieces, f = (piece + 1) * d / pieces - q;
            double* s = S + q * K_pad + v * LANES<T>;
            if (n == 1) outer_panel<T, 1>(A + q, lda, f, r, K_pad, rows, s, K_pad);
            if constexpr (VECTORS >= 2)
                if (n == 2) outer_panel<T, 2>(A + q, lda, f, r, K_pad, rows, s, K_pad);
            if constexpr (VECTORS >= 3)
                if (n == 3) outer_panel<T, 3>(A + q, lda, f, r, K_pad, rows, s, K_pad);
            if constexpr (VECTORS >= 4)
                if (n == 4) outer_panel<T, 4>(A + q, lda, f, r, K_pad, rows, s, K_pad);
        }
    }
}

// The scratch of one thread.
template <typename T>
struct Scratch {
    T *R, *lambda, *P, *P_sigma, *mass, *correction, *second, *W;
    int64_t K_pad, d_pad;
    T bound; // largest of the segment's penalties, which lambda and P are relative to, where Tables::bounded

    Scratch(T* memory, int64_t d, int64_t K) : K_pad(padded(K, LANES<T>)), d_pad(padded(d, LANES<T>)), bound(0) {
        R = memory;
        lambda = R + (TILE + ROWS) * K_pad;
        P = lambda + K_pad;
        P_sigma = P + K_pad;
        mass = P_sigma + K_pad;
        correction = mass + K_pad;
        second = correction + (TILE + ROWS) * d_pad;
        W = second + (TILE + ROWS) * d_pad;
    }
    static int64_t size(int64_t d, int64_t K) {
        const int64_t k = padded(K, LANES<T>), p = padded(d, LANES<T>);
        return (TILE + ROWS) * (k + 2 * p) + 4 * k + K * p;
    }
};

// What the cells of a segment share. Two forms of R_ik = softmax_k(l_ik), l_ik = -D_ik / sigma_k + sum_f logp:
//
// - Where exp(-4 / sigma_k) does not underflow for any k (Tables::bounded), as D is at most 4, it is A_ik P_k / s_i with
//   A_ik = exp(-D_ik / sigma_k), P_k = exp(sum_f logp - bound) and s_i = sum_k A_ik P_k. A changes with Zn and Y only, so it
//   may be kept from one sweep to the next (Layout::A), and has the same bits where it is computed anew.
// - Else the largest logit of each row is taken off before exp, and P is 1.
template <typename T>
void segment_penalty(const Layout<T>& x, const Tables<T>& t, int64_t s, Scratch<T>& m) {
    typedef typename Vec<T>::type V;
    const int64_t K_pad = m.K_pad;
    for (int64_t k = 0; k < K_pad; k += LANES<T>) {
        store(m.lambda + k, t.bounded ? V{} : load(t.base + k));
        store(m.P + k, all<T>(1));
    }
    if (t.logp) {
        const T* logp = t.logp + x.segment_block[s] * t.logp_stride;
        for (int64_t f = 0; f < x.n_variables; ++f) {
            const T* row = logp + x.joint_levels[x.segment_joint[s] * x.n_variables + f] * K_pad;
            for (int64_t k = 0; k < K_pad; k += LANES<T>) store(m.lambda + k, load(m.lambda + k) + load(row + k));
        }
    }
    if (!t.bounded) return;
    V top = load(m.lambda);
    for (int64_t k = LANES<T>; k < K_pad; k += LANES<T>) top = larger(top, load(m.lambda + k));
    m.bound = largest_of<T>(top);
    for (int64_t k = 0; k < K_pad; k += LANES<T>) {
        const V l = larger(load(m.lambda + k) - m.bound, all<T>(EXP_MIN<T>));
        store(m.lambda + k, l);
        store(m.P + k, exp_nonpositive(l));
    }
    for (int64_t k = x.n_clusters; k < K_pad; ++k) m.lambda[k] = m.P[k] = 0;
    for (int64_t k = 0; k < K_pad; k += LANES<T>) store(m.P_sigma + k, load(m.P + k) * load(t.sigma + k));
}

struct RowSums {
    double log_partition, entropy;
};

// One factor s_i after the other of a product whose log is sum ln s_i, taken before it leaves the range of a double.
struct LogProduct {
    double product = 1, log_product = 0;
    void times(double factor) {
        product *= factor;
        if (product > 1e100 || product < 1e-100) {
            log_product += log(product);
            product = 1;
        }
    }
    double sum() const { return log_product + log(product); }
};

// Turn the logits of at most TILE rows of one segment, without its lambda, into weights e, with R = e * scale[row].
template <typename T, bool ONE_SIGMA>
RowSums softmax(T* logits, int64_t rows, const Tables<T>& t, const Scratch<T>& m, T* scale) {
    typedef typename Vec<T>::type V;
    const int64_t K_pad = m.K_pad;
    T most[TILE];
    // Rows in two loops, so that the long chains that fold a row overlap with other rows.
    for (int64_t r = 0; r < rows; ++r) {
        T* row = logits + r * K_pad;
        V top = load(row) + load(m.lambda);
        store(row, top);
        for (int64_t k = LANES<T>; k < K_pad; k += LANES<T>) {
            const V l = load(row + k) + load(m.lambda + k);
            store(row + k, l);
            top = larger(top, l);
        }
        most[r] = largest_of<T>(top);
    }
    double log_partition = 0, entropy = 0;
    LogProduct sums;
    V mean = {};
    for (int64_t r = 0; r < rows; ++r) {
        T* row = logits + r * K_pad;
        V total = {}, weighted = {}, sigmas = {};
        for (int64_t k = 0; k < K_pad; k += LANES<T>) {
            const V l = larger(load(row + k) - most[r], all<T>(EXP_MIN<T>));
            const V e = exp_nonpositive(l);
            store(row + k, e);
            total += e;
            if (ONE_SIGMA) {
                weighted += e * l;
            } else {
                const V u = e * load(t.sigma + k);
                sigmas += u;
                weighted += u * l;
            }
        }
        const T sum = sum_of<T>(total);
        scale[r] = T(1) / sum;
        mean += weighted * scale[r];
        if (ONE_SIGMA) {
            log_partition += (double)most[r];
            sums.times((double)sum);
        } else {
            const double sigma = (double)(sum_of<T>(sigmas) * scale[r]), log_sum = log((double)sum);
            log_partition += sigma * ((double)most[r] + log_sum);
            entropy -= sigma * log_sum;
        }
    }
    entropy += (double)sum_of<T>(mean);
    if (!ONE_SIGMA) return {log_partition, entropy};
    const double sigma = (double)t.sigma[0], log_sums = sums.sum();
    return {sigma * (log_partition + log_sums), sigma * (entropy - log_sums)};
}

// What is summed over rows beside their `scale`.
enum Sums { NOTHING, LOG_PARTITION, ENTROPY_TOO };

// The same of weights A, which stay as they are: R = A * P * scale[row].
template <typename T, bool ONE_SIGMA, Sums SUMS>
RowSums share_out(const T* A, int64_t rows, const Tables<T>& t, const Scratch<T>& m, T* scale) {
    typedef typename Vec<T>::type V;
    const int64_t K_pad = m.K_pad;
    double log_partition = 0, entropy = 0;
    LogProduct sums;
    V mean = {};
    for (int64_t r = 0; r < rows; ++r) {
        const T* row = A + r * K_pad;
        V total = {}, weighted = {}, sigmas = {};
        for (int64_t k = 0; k < K_pad; k += LANES<T>) {
            const V a = load(row + k), e = a * load(m.P + k);
            total += e;
            if (SUMS == NOTHING || (ONE_SIGMA && SUMS == LOG_PARTITION)) continue;
            const V u = ONE_SIGMA ? e : a * load(m.P_sigma + k);
            sigmas += u;
            if (SUMS == ENTROPY_TOO) weighted += u * ln(a);
        }
        const T sum = sum_of<T>(total);
        scale[r] = T(1) / sum;
        if (SUMS == NOTHING) continue;
        mean += weighted * scale[r];
        if (ONE_SIGMA) {
            sums.times((double)sum);
        } else {
            const double sigma = (double)(sum_of<T>(sigmas) * scale[r]), log_sum = log((double)sum);
            log_partition += sigma * ((double)m.bound + log_sum);
            entropy -= sigma * log_sum;
        }
    }
    entropy += (double)sum_of<T>(mean);
    if (!ONE_SIGMA) return {log_partition, entropy};
    const double sigma = (double)t.sigma[0], log_sums = sums.sum();
    return {sigma * ((double)rows * (double)m.bound + log_sums), sigma * (entropy - log_sums)};
}

template <typename T, Sums SUMS>
RowSums assign_rows(T* weights, int64_t rows, const Tables<T>& t, const Scratch<T>& m, T* scale) {
    if (t.bounded)
        return t.one_sigma ? share_out<T, true, SUMS>(weights, rows, t, m, scale)
                           : share_out<T, false, SUMS>(weights, rows, t, m, scale);
    return t.one_sigma ? softmax<T, true>(weights, rows, t, m, scale) : softmax<T, false>(weights, rows, t, m, scale);
}

// Add the rows' R to `mass`, K values. Returns sum sigma_k R_ik lambda_k: the entropy that all rows' ln R have in common.
template <typename T>
double add_mass(const T* weights, int64_t rows, const T* scale, const Tables<T>& t, Scratch<T>& m, int64_t K,
                double* mass) {
    typedef typename Vec<T>::type V;
    V penalty = {};
    for (int64_t k = 0; k < m.K_pad; k += LANES<T>) {
        V sum = {};
        for (int64_t r = 0; r < rows; ++r) sum += load(weights + r * m.K_pad + k) * scale[r];
        sum *= load(m.P + k);
        store(m.mass + k, sum);
        penalty += sum * load(m.lambda + k) * load(t.sigma + k);
    }
    for (int64_t k = 0; k < K; ++k) mass[k] += (double)m.mass[k];
    return t.bounded ? (double)sum_of<T>(penalty) : 0;
}

// Write R of the rows.
template <typename T>
void normalise(const T* weights, int64_t rows, const T* scale, const Scratch<T>& m, T* R) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < m.K_pad; k += LANES<T>)
            store(R + r * m.K_pad + k, load(weights + r * m.K_pad + k) * load(m.P + k) * scale[r]);
}

// The weights of a tile before any penalty: A, at hand or computed and kept; or logits, where not bounded.
template <typename T>
T* tile_weights(const Layout<T>& x, const Tables<T>& t, int64_t cell, int64_t rows, Scratch<T>& m) {
    T* A = x.A ? x.A + cell * m.K_pad : m.R;
    if (x.A && x.A_is_known) return A;
    multiply(x.Zn + (cell - x.first) * x.d, x.d, rows, x.d, t.Y, m.K_pad / LANES<T>, m.R, m.K_pad);
    if (!t.bounded) return m.R;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < m.K_pad; k += LANES<T>) {
            const typename Vec<T>::type l = load(m.R + r * m.K_pad + k) + load(t.base + k);
            store(A + r * m.K_pad + k, exp_nonpositive(larger(l, all<T>(EXP_MIN<T>))));
        }
    return A;
}

// Cells of one segment, at most TILE.
template <typename T>
struct Piece {
    T* weights; // before penalty and scale
    T* R;       // room for their R, which may be where the weights are
    int64_t cell, rows, segment;
    bool ends_tile;
};

// Call body(piece) for all cells of the segments. A tile runs over segments, so that short ones do not leave the product
// half empty; its pieces' R lie one after another from m.R on.
template <typename T, typename Body>
void for_pieces(const Layout<T>& x, const Tables<T>& t, int64_t s0, int64_t s1, Scratch<T>& m, const Body& body) {
    int64_t s = s0, ready = -1;
    const int64_t stop = x.segment_start[s1];
    for (int64_t cell = x.segment_start[s0]; cell < stop; cell += TILE) {
        const int64_t rows = least(TILE, stop - cell);
        T* weights = tile_weights(x, t, cell, rows, m);
        for (int64_t r = 0; r < rows;) {
            while (x.segment_start[s + 1] <= cell + r) ++s;
            const int64_t n = least(rows, x.segment_start[s + 1] - cell) - r;
            if (ready != s) segment_penalty(x, t, ready = s, m);
            body(Piece<T>{weights + r * m.K_pad, m.R + r * m.K_pad, cell + r, n, s, r + n == rows});
            r += n;
        }
    }
}

// Add R^T Z of a piece to S, and R^T of Z times each covariate.
template <typename T>
void add_moments(const Layout<T>& x, const Piece<T>& p, const Scratch<T>& m, double* S) {
    const T* Z = x.Z + (p.cell - x.first) * x.d;
    outer(Z, x.d, x.d, p.R, m.K_pad, p.rows, S);
    for (int64_t c = 0; c < x.n_covariates; ++c) {
        for (int64_t r = 0; r < p.rows; ++r) {
            const T* z = Z + r * x.d;
            const T value = z[x.d - x.n_covariates + c];
            for (int64_t j = 0; j < x.d; ++j) m.second[r * m.d_pad + j] = value * z[j];
        }
        outer(m.second, m.d_pad, x.d, p.R, m.K_pad, p.rows, S + (c + 1) * x.d * m.K_pad);
    }
}

template <typename T>
void sweep(const Layout<T>& x, const Tables<T>& t, int64_t s0, int64_t s1, T* memory, GrainSums* out) {
    Scratch<T> m(memory, x.d, x.n_clusters);
    out->log_partition = out->entropy = 0;
    T scale[TILE];
    for_pieces(x, t, s0, s1, m, [&](const Piece<T>& p) {
        const RowSums sums = out->S ? assign_rows<T, ENTROPY_TOO>(p.weights, p.rows, t, m, scale)
                                    : assign_rows<T, LOG_PARTITION>(p.weights, p.rows, t, m, scale);
        double* mass = out->mass + (p.segment - s0) * x.n_clusters;
        out->log_partition += sums.log_partition;
        out->entropy += sums.entropy + add_mass(p.weights, p.rows, scale, t, m, x.n_clusters, mass);
        if (!out->S && !out->moment) return;
        normalise(p.weights, p.rows, scale, m, p.R);
        if (out->S) add_moments(x, p, m, out->S + (p.segment - s0) * (1 + x.n_covariates) * x.d * m.K_pad);
        if (!out->moment || !p.ends_tile) return;
        const int64_t stop = p.cell + p.rows, rows = (p.R - m.R) / m.K_pad + p.rows;
        outer(x.Zn + (stop - rows - x.first) * x.d, x.d, x.d, m.R, m.K_pad, rows, out->moment);
    });
}

template <typename T>
void moments(const Layout<T>& x, const Tables<T>& t, int64_t s, T* memory, double* S, double* mass, double* entropy) {
    Scratch<T> m(memory, x.d, x.n_clusters);
    T scale[TILE];
    for_pieces(x, t, s, s + 1, m, [&](const Piece<T>& p) {
        const RowSums sums = assign_rows<T, ENTROPY_TOO>(p.weights, p.rows, t, m, scale);
        *entropy += sums.entropy + add_mass(p.weights, p.rows, scale, t, m, x.n_clusters, mass);
        normalise(p.weights, p.rows, scale, m, p.R);
        add_moments(x, p, m, S);
    });
}

// The segment's W: the sum over its levels, in panels.
template <typename T>
const T* segment_W(const Layout<T>& x, const Tables<T>& t, int64_t s, Scratch<T>& m) {
    const int64_t size = x.n_clusters * m.d_pad;
    if (t.W_of_joint) return t.W + x.segment_joint[s] * t.W_stride;
    const int32_t* levels = x.joint_levels + x.segment_joint[s] * x.n_variables;
    if (x.n_variables == 1) return t.W + levels[0] * size;
    memcpy(m.W, t.W + levels[0] * size, size * sizeof(T));
    for (int64_t f = 1; f < x.n_variables; ++f) {
        const T* w = t.W + levels[f] * size;
        for (int64_t i = 0; i < size; i += LANES<T>) store(m.W + i, load(m.W + i) + load(w + i));
    }
    return m.W;
}

// Zc = Z - R W of a tile, in place of `correction`.
template <typename T>
void subtract_tile(const T* Z, int64_t rows, int64_t d, T* correction, int64_t d_pad) {
    for (int64_t r = 0; r < rows; ++r) {
        const T* z = Z + r * d;
        T* c = correction + r * d_pad;
        int64_t j = 0;
        for (; j + LANES<T> <= d; j += LANES<T>) store(c + j, load(z + j) - load(c + j));
        for (; j < d; ++j) c[j] = z[j] - c[j];
    }
}

// Subtract each covariate's part, x R Wx, too; the covariates themselves become 0.
template <typename T>
void subtract_covariates(const Layout<T>& x, const Tables<T>& t, const Piece<T>& p, const Scratch<T>& m) {
    const int64_t d = x.d - x.n_covariates;
    for (int64_t c = 0; c < x.n_covariates; ++c) {
        const T* W = t.Wx + c * x.n_clusters * m.d_pad;
        multiply(p.R, m.K_pad, p.rows, x.n_clusters, W, m.d_pad / LANES<T>, m.second, m.d_pad);
        for (int64_t r = 0; r < p.rows; ++r) {
            const T value = x.Z[(p.cell + r - x.first) * x.d + d + c];
            T* to = m.correction + r * m.d_pad;
            for (int64_t j = 0; j < d; ++j) to[j] -= value * m.second[r * m.d_pad + j];
            to[d + c] = 0;
        }
    }
}

// Write a tile's rows, scaled to unit length, to Zn. The padding of `Zc` is zero.
template <typename T>
void unit_tile(const T* Zc, int64_t rows, int64_t d, int64_t d_pad, T* Zn) {
    for (int64_t r = 0; r < rows; ++r) {
        const T* c = Zc + r * d_pad;
        typename Vec<T>::type squares = {};
        for (int64_t j = 0; j < d_pad; j += LANES<T>) squares += load(c + j) * load(c + j);
        const T norm = sum_of<T>(squares);
        const T inverse = norm > 0 ? T(1) / (sizeof(T) == 4 ? (T)sqrtf((float)norm) : (T)sqrt((double)norm)) : T(0);
        T* z = Zn + r * d;
        int64_t j = 0;
        for (; j + LANES<T> <= d; j += LANES<T>) store(z + j, load(c + j) * inverse);
        for (; j < d; ++j) z[j] = c[j] * inverse;
    }
}

template <typename T>
void correct(const Layout<T>& x, const Tables<T>& t, int64_t s0, int64_t s1, T* memory, double* moment, float* out32,
             double* out64) {
    Scratch<T> m(memory, x.d, x.n_clusters);
    T scale[TILE];
    const T* W = nullptr;
    int64_t ready = -1;
    for_pieces(x, t, s0, s1, m, [&](const Piece<T>& p) {
        assign_rows<T, NOTHING>(p.weights, p.rows, t, m, scale);
        normalise(p.weights, p.rows, scale, m, p.R);
        if (ready != p.segment) W = segment_W(x, t, ready = p.segment, m);
        multiply(p.R, m.K_pad, p.rows, x.n_clusters, W, m.d_pad / LANES<T>, m.correction, m.d_pad);
        T* Zn = x.Zn + (p.cell - x.first) * x.d;
        subtract_tile(x.Z + (p.cell - x.first) * x.d, p.rows, x.d, m.correction, m.d_pad);
        subtract_covariates(x, t, p, m);
        if (!out32 && !out64) {
            unit_tile(m.correction, p.rows, x.d, m.d_pad, Zn);
            if (moment) outer(Zn, x.d, x.d, p.R, m.K_pad, p.rows, moment);
            return;
        }
        if (moment) outer(m.correction, m.d_pad, x.d, p.R, m.K_pad, p.rows, moment);
        for (int64_t r = 0; r < p.rows; ++r) {
            const T* c = m.correction + r * m.d_pad;
            const int64_t to = x.order[p.cell + r - x.first] * x.d_out;
            for (int64_t j = 0; j < x.d - x.n_covariates; ++j) {
                if (out32) out32[to + j] = (float)c[j];
                if (out64) out64[to + j] = (double)c[j];
            }
        }
    });
}

template <typename T>
void assign(const Layout<T>& x, const Tables<T>& t, int64_t s0, int64_t s1, T* memory, T* out) {
    Scratch<T> m(memory, x.d, x.n_clusters);
    T scale[TILE];
    for_pieces(x, t, s0, s1, m, [&](const Piece<T>& p) {
        assign_rows<T, NOTHING>(p.weights, p.rows, t, m, scale);
        normalise(p.weights, p.rows, scale, m, p.R);
        for (int64_t r = 0; r < p.rows; ++r)
            memcpy(out + x.order[p.cell + r - x.first] * x.n_clusters, p.R + r * m.K_pad, x.n_clusters * sizeof(T));
    });
}

template <typename T>
void pack_panels(const double* from, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, T* to) {
    const int64_t vectors = padded(columns, LANES<T>) / LANES<T>;
    for (int64_t v = 0; v < vectors; v += VECTORS) {
        const int64_t first = v * LANES<T>, n = least(VECTORS, vectors - v) * LANES<T>;
        for (int64_t j = 0; j < rows; ++j)
            for (int64_t k = first; k < first + n; ++k)
                *to++ = k < columns ? (T)from[j * row_stride + k * column_stride] : T(0);
    }
}

template <typename T>
constexpr TileOps<T> OPS = {LANES<T>, Scratch<T>::size, sweep<T>, moments<T>, correct<T>, assign<T>, pack_panels<T>};

} // namespace

extern const InstructionSet SET;
const InstructionSet SET = {HX_NAME, OPS<float>, OPS<double>};

} // namespace HX_NAMESPACE
} // namespace harmonax
