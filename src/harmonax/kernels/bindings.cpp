// Python's view of the cells. Shapes are checked here, in one place; everything behind trusts them.
#include "cells.hpp"
#include "ridge.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;

namespace harmonax {
namespace {

template <typename T, int N>
using Array = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Strided = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;
template <typename T>
using Out = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
}

// Whole values: what is vectorised may not read others.
template <typename A>
void require_aligned(const A& array) {
    require((uintptr_t)array.data() % sizeof(typename A::Scalar) == 0, "an array is not aligned to its values");
}

// Run pending signal handlers; true when one of them raised. Only Python's main thread runs any.
bool interrupted() {
    nb::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

// Run `work` without the GIL; an interrupt becomes the exception that the signal handler raised, a file's an OSError.
template <typename Work>
auto unlocked(const Work& work) {
    try {
        nb::gil_scoped_release free;
        return work();
    } catch (const Interrupted&) {
        throw nb::python_error();
    } catch (const std::system_error& error) {
        errno = error.code().value();
        PyErr_SetFromErrno(PyExc_OSError);
        throw nb::python_error();
    }
}

// Gives NumPy large arrays, and those that NumPy has released again: the first touch of new memory takes longer than what
// is then written there.
class ArrayPool {
  public:
    // Uninitialised.
    nb::ndarray<nb::numpy, double> empty(const std::vector<size_t>& shape, double** data) {
        size_t size = 1;
        for (size_t s : shape) {
            if (s && size > std::numeric_limits<size_t>::max() / sizeof(double) / s) throw std::bad_alloc();
            size *= s;
        }
        auto held = std::make_unique<Held>(Held{spare_->take(size), size, spare_});
        *data = held->values.get();
        nb::capsule owner(held.get(), [](void* p) noexcept {
            const std::unique_ptr<Held> back(static_cast<Held*>(p));
            back->home->put(std::move(back->values), back->size);
        });
        held.release();
        return nb::ndarray<nb::numpy, double>(*data, shape.size(), shape.data(), owner);
    }
    template <typename... Size>
    nb::object empty(double** data, Size... size) {
        return nb::cast(empty(std::vector<size_t>{(size_t)size...}, data));
    }
    void clear() { spare_->clear(); }

  private:
    using Values = std::unique_ptr<double[]>;
    // Smaller ones, in values, are left to the allocator; more than so many are not kept.
    static constexpr size_t SMALL = 1 << 17, MOST = 3;

    class Spare {
      public:
        Spare() { arrays_.reserve(MOST); }
        Values take(size_t size) {
            const std::lock_guard<std::mutex> lock(mutex_);
            for (auto it = arrays_.begin(); it != arrays_.end(); ++it)
                if (it->second == size) {
                    Values found = std::move(it->first);
                    arrays_.erase(it);
                    return found;
                }
            return Values(new double[std::max<size_t>(size, 1)]);
        }
        void put(Values values, size_t size) noexcept {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (size < SMALL) return;
            if (arrays_.size() == MOST) arrays_.erase(arrays_.begin());
            arrays_.emplace_back(std::move(values), size);
        }
        void clear() {
            const std::lock_guard<std::mutex> lock(mutex_);
            arrays_.clear();
        }

      private:
        std::mutex mutex_;
        std::vector<std::pair<Values, size_t>> arrays_;
    };
    struct Held {
        Values values;
        size_t size;
        std::shared_ptr<Spare> home;
    };
    std::shared_ptr<Spare> spare_ = std::make_shared<Spare>();
};

template <typename A>
auto view(const A& array) {
    return View<std::remove_const_t<typename A::Scalar>>{array.data(), (int64_t)array.size()};
}

// Values of an array that nobody else can change.
template <typename A>
auto copy(const A& array) {
    require_aligned(array);
    return std::vector<std::remove_const_t<typename A::Scalar>>(array.data(), array.data() + array.size());
}

template <typename T>
View<T> view(const std::vector<T>& values) {
    return {values.data(), (int64_t)values.size()};
}

// Numbers to read: those of an array, or a copy where that is not aligned, as arrays from a message of Dask may be.
template <int N>
class Table {
  public:
    explicit Table(const Array<double, N>& array) : array_(array), data_(array.data()) {
        if ((uintptr_t)data_ % sizeof(double) == 0) return;
        own_.resize(array.size());
        std::memcpy(own_.data(), static_cast<const void*>(data_), array.size() * sizeof(double));
        data_ = own_.data();
    }
    Table(const Table&) = delete;
    Table& operator=(const Table&) = delete;
    const double* data() const { return data_; }
    size_t shape(size_t axis) const { return array_.shape(axis); }

  private:
    const Array<double, N>& array_;
    const double* data_;
    std::vector<double> own_;
};

// A plan that was checked, and its own copy of the arrays: what the kernels index by stays as it was checked.
struct PyPlan {
    struct Arrays {
        std::vector<int64_t> segment_start;
        std::vector<int32_t> segment_joint, segment_block, joint_levels;
        std::vector<int64_t> block_segment, block_grain, grain_segment, segments_by_joint, unit_segment, order;
    };
    std::shared_ptr<const Arrays> arrays;
    bool has_order;
    Plan plan;

    PyPlan(Arrays&& a, int64_t n_levels, int64_t n_variables, int64_t n_covariates, bool ordered)
        : arrays(std::make_shared<const Arrays>(std::move(a))), has_order(ordered) {
        plan.n_levels = n_levels;
        plan.n_variables = n_variables;
        plan.n_covariates = n_covariates;
        plan.segment_start = view(arrays->segment_start);
        plan.segment_joint = view(arrays->segment_joint);
        plan.segment_block = view(arrays->segment_block);
        plan.joint_levels = view(arrays->joint_levels);
        plan.block_segment = view(arrays->block_segment);
        plan.block_grain = view(arrays->block_grain);
        plan.grain_segment = view(arrays->grain_segment);
        plan.segments_by_joint = view(arrays->segments_by_joint);
        plan.unit_segment = view(arrays->unit_segment);
        plan.order = view(arrays->order);
        plan.check();
        require(!has_order || plan.order.size == plan.n_cells, "order is empty, but there are cells");
    }
};

// Cells in use by one call: another at the same time, from another thread or a signal handler, is refused.
class InUse {
  public:
    explicit InUse(std::atomic<bool>& busy) : busy_(busy) {
        if (busy_.exchange(true))
            throw std::runtime_error("these cells are in use by another thread; give each thread its own");
    }
    ~InUse() { busy_ = false; }
    InUse(const InUse&) = delete;
    InUse& operator=(const InUse&) = delete;

  private:
    std::atomic<bool>& busy_;
};

template <typename T>
struct PyCells {
    PyPlan plan;
    std::unique_ptr<Cells<T>> cells;
    std::atomic<bool> busy{false};
    ArrayPool pool;

    template <typename Source>
    PyCells(const Strided<Source>& Z, const PyPlan& laid_out, const std::string& set, int n_threads) : plan(laid_out) {
        require_aligned(Z);
        require((int64_t)Z.shape(0) >= plan.plan.n_cells, "the order is longer than Z");
        require((int64_t)Z.shape(1) > plan.plan.n_covariates, "Z has no features");
        require(plan.has_order, "cells in memory need an order");
        require(n_threads >= 1, "n_threads must be at least 1");
        const InstructionSet& chosen = instruction_set(set.c_str());
        cells = unlocked([&] {
            return std::make_unique<Cells<T>>(plan.plan, (int64_t)Z.shape(1), Z.data(), Z.stride(0), Z.stride(1),
                                              chosen, n_threads, interrupted);
        });
    }

    PyCells(int file, int64_t d, const PyPlan& laid_out, const std::string& set, int n_threads) : plan(laid_out) {
        require(file >= 0, "file is not a file descriptor");
        require(d > plan.plan.n_covariates && d <= (int64_t(1) << 60) / std::max<int64_t>(plan.plan.n_cells, 1),
                "d is out of range");
        require(n_threads >= 1, "n_threads must be at least 1");
        const InstructionSet& chosen = instruction_set(set.c_str());
        cells =
            unlocked([&] { return std::make_unique<Cells<T>>(plan.plan, d, file, chosen, n_threads, interrupted); });
    }

    // Run `work` on the cells without the GIL.
    template <typename Work>
    auto use(const Work& work) {
        const InUse here(busy);
        return unlocked(work);
    }

    void keep_weights(int64_t bytes) {
        use([&] { cells->keep_weights(bytes); });
    }
    void release() {
        use([&] { cells->release(); });
        pool.clear();
    }

    Centroids centroids(const Table<2>& Y, const Table<1>& sigma) const {
        require((int64_t)Y.shape(1) == cells->d(), "Y has the wrong number of features");
        require(sigma.shape(0) == Y.shape(0), "sigma needs one value per cluster");
        require(Y.shape(0) >= 1, "Y has no clusters");
        return {Y.data(), sigma.data(), (int64_t)Y.shape(0)};
    }
    void check_logp(const Table<3>& logp, int64_t K) const {
        require((int64_t)logp.shape(0) == cells->plan().n_blocks && (int64_t)logp.shape(1) == cells->plan().n_levels &&
                    (int64_t)logp.shape(2) == K,
                "logp must be n_blocks x n_levels x K");
    }
    void check_W(const Table<3>& W, int64_t K) const {
        require((int64_t)W.shape(0) == cells->plan().n_levels + cells->plan().n_covariates &&
                    (int64_t)W.shape(1) == K && (int64_t)W.shape(2) == cells->d(),
                "W must be (n_levels + n_covariates) x K x d");
    }

    nb::tuple sweep(int64_t block, const Array<double, 2>& Y_, const Array<double, 1>& sigma_,
                    const std::optional<Array<double, 2>>& logp_, bool want_moment, bool last) {
        const Table<2> Y(Y_);
        const Table<1> sigma(sigma_);
        std::optional<Table<2>> logp;
        if (logp_) logp.emplace(*logp_);
        const Plan& p = cells->plan();
        const Centroids c = centroids(Y, sigma);
        require(block >= 0 && block < p.n_blocks, "no such block");
        require(!logp || ((int64_t)logp->shape(0) == p.n_levels && (int64_t)logp->shape(1) == c.K),
                "logp must be n_levels x K");
        double *mass, *moment;
        nb::object mass_array = pool.empty(&mass, p.n_levels, c.K);
        nb::object moment_array = pool.empty(&moment, want_moment ? c.K : 0, cells->d());
        const double* table = logp ? logp->data() : nullptr;
        const double log_partition =
            use([&] { return cells->sweep(block, c, table, mass, want_moment ? moment : nullptr, last, interrupted); });
        return nb::make_tuple(mass_array, log_partition, moment_array);
    }

    nb::tuple moments(const Array<double, 2>& Y_, const Array<double, 1>& sigma_, const Array<double, 3>& logp_) {
        const Table<2> Y(Y_);
        const Table<1> sigma(sigma_);
        const Table<3> logp(logp_);
        const Plan& p = cells->plan();
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        double *S, *mass;
        nb::object S_array = pool.empty(&S, p.n_joint, c.K, cells->width_S()),
                   mass_array = pool.empty(&mass, p.n_joint, c.K);
        const double entropy = use([&] { return cells->moments(c, logp.data(), S, mass, interrupted); });
        return nb::make_tuple(S_array, mass_array, entropy);
    }

    nb::object correct(const Array<double, 2>& Y_, const Array<double, 1>& sigma_, const Array<double, 3>& logp_,
                       const Array<double, 3>& W_, bool want_moment) {
        const Table<2> Y(Y_);
        const Table<1> sigma(sigma_);
        const Table<3> logp(logp_);
        const Table<3> W(W_);
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        check_W(W, c.K);
        double* moment;
        nb::object moment_array = pool.empty(&moment, want_moment ? c.K : 0, cells->d());
        use([&] { cells->correct(c, logp.data(), W.data(), want_moment ? moment : nullptr, interrupted); });
        return moment_array;
    }

    template <typename O>
    nb::object emit(const Array<double, 2>& Y_, const Array<double, 1>& sigma_, const Array<double, 3>& logp_,
                    const Array<double, 3>& W_, Out<O> out, bool want_moment) {
        const Table<2> Y(Y_);
        const Table<1> sigma(sigma_);
        const Table<3> logp(logp_);
        const Table<3> W(W_);
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        check_W(W, c.K);
        require(!cells->in_file(), "cells in a file are emitted in place");
        require_aligned(out);
        require((int64_t)out.shape(0) == cells->plan().n_cells &&
                    (int64_t)out.shape(1) == cells->d() - cells->plan().n_covariates,
                "out must be n_cells x d, without the covariates");
        float* out32 = nullptr;
        double* out64 = nullptr;
        if constexpr (sizeof(O) == 4)
            out32 = out.data();
        else
            out64 = out.data();
        pool.clear();
        double* moment;
        nb::object moment_array = pool.empty(&moment, want_moment ? c.K : 0, cells->d());
        use([&] { cells->emit(c, logp.data(), W.data(), want_moment ? moment : nullptr, out32, out64, interrupted); });
        return moment_array;
    }

    nb::object emit_in_place(const Array<double, 2>& Y_, const Array<double, 1>& sigma_, const Array<double, 3>& logp_,
                             const Array<double, 3>& W_, bool want_moment) {
        const Table<2> Y(Y_);
        const Table<1> sigma(sigma_);
        const Table<3> logp(logp_);
        const Table<3> W(W_);
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        check_W(W, c.K);
        require(cells->in_file(), "cells in memory are emitted to an array");
        pool.clear();
        double* moment;
        nb::object moment_array = pool.empty(&moment, want_moment ? c.K : 0, cells->d());
        use([&] { cells->emit_in_place(c, logp.data(), W.data(), want_moment ? moment : nullptr, interrupted); });
        return moment_array;
    }

    void assign(const Array<double, 2>& Y_, const Array<double, 1>& sigma_, const Array<double, 3>& logp_,
                const Array<int64_t, 1>& order, Out<T> out) {
        const Table<2> Y(Y_);
        const Table<1> sigma(sigma_);
        const Table<3> logp(logp_);
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        require_aligned(order);
        check_order(view(order), cells->plan().n_cells);
        require_aligned(out);
        require((int64_t)out.shape(0) == cells->plan().n_cells && (int64_t)out.shape(1) == c.K,
                "out must be n_cells x K");
        use([&] { cells->assign(c, logp.data(), order.data(), out.data(), interrupted); });
    }
};

nb::tuple ridge_of(Array<int32_t, 2> joint_levels, int64_t largest, int64_t first, int64_t stop, Array<double, 3> S,
                   Array<double, 2> mass, Array<bool, 2> active, Array<double, 2> lambda, Array<bool, 2> keep,
                   Array<double, 2> anchor_moment, Array<double, 1> anchor_mass, double least, int n_threads,
                   ArrayPool& pool) {
    const int64_t J = (int64_t)S.shape(0), K = (int64_t)S.shape(1), d = (int64_t)S.shape(2);
    const int64_t B = (int64_t)lambda.shape(0), F = (int64_t)joint_levels.shape(1);
    require((int64_t)joint_levels.shape(0) == J && (int64_t)mass.shape(0) == J, "S, mass and joint_levels differ");
    require((int64_t)active.shape(0) == J && (int64_t)active.shape(1) == K, "active must be n_joint x K");
    require((int64_t)mass.shape(1) == K && (int64_t)lambda.shape(1) == K,
            "mass and lambda need one column per cluster");
    require((int64_t)keep.shape(0) == B && (int64_t)keep.shape(1) == K, "keep must be n_levels x K");
    require((int64_t)anchor_moment.shape(0) == K && (int64_t)anchor_moment.shape(1) == d &&
                (int64_t)anchor_mass.shape(0) == K,
            "the anchor must have K x d and K values");
    require(0 <= largest && largest < F && 0 <= first && first < stop && stop <= B, "no such variable");
    for (int64_t i = 0; i < J * F; ++i) {
        const int64_t level = joint_levels.data()[i];
        require(0 <= level && level < B && (i % F == largest) == (first <= level && level < stop),
                "joint_levels has a level that is not one of its variable");
    }
    require(n_threads >= 1, "n_threads must be at least 1");
    double *W, *W0;
    nb::object W_array = pool.empty(&W, B, K, d), W0_array = pool.empty(&W0, K, d);
    bool* singular = new bool[K + 1]();
    nb::capsule owner(singular, [](void* p) noexcept { delete[] static_cast<bool*>(p); });
    const size_t size = (size_t)K;
    nb::ndarray<nb::numpy, bool> singular_array(singular, 1, &size, owner);
    const RidgeSystem system{view(joint_levels),
                             J,
                             F,
                             B,
                             K,
                             d,
                             largest,
                             first,
                             stop,
                             S.data(),
                             mass.data(),
                             active.data(),
                             lambda.data(),
                             keep.data(),
                             anchor_moment.data(),
                             anchor_mass.data()};
    unlocked([&] { solve_ridge(system, least, W, W0, singular, n_threads, interrupted); });
    return nb::make_tuple(W_array, W0_array, singular_array);
}

void bind_plan(nb::module_& m) {
    nb::class_<PyPlan>(m, "Plan")
        .def(
            "__init__",
            [](PyPlan* self, Array<int64_t, 1> segment_start, Array<int32_t, 1> segment_joint,
               Array<int32_t, 1> segment_block, Array<int32_t, 2> joint_levels, Array<int64_t, 1> block_segment,
               Array<int64_t, 1> block_grain, Array<int64_t, 1> grain_segment, Array<int64_t, 1> segments_by_joint,
               Array<int64_t, 1> unit_segment, int64_t n_levels, std::optional<Array<int64_t, 1>> order,
               int64_t n_covariates) {
                new (self) PyPlan({copy(segment_start), copy(segment_joint), copy(segment_block), copy(joint_levels),
                                   copy(block_segment), copy(block_grain), copy(grain_segment), copy(segments_by_joint),
                                   copy(unit_segment), order ? copy(*order) : std::vector<int64_t>{}},
                                  n_levels, (int64_t)joint_levels.shape(1), n_covariates, order.has_value());
            },
            nb::kw_only(), "segment_start"_a, "segment_joint"_a, "segment_block"_a, "joint_levels"_a, "block_segment"_a,
            "block_grain"_a, "grain_segment"_a, "segments_by_joint"_a, "unit_segment"_a, "n_levels"_a,
            "order"_a = nb::none(), "n_covariates"_a = 0)
        .def_prop_ro("n_cells", [](const PyPlan& self) { return self.plan.n_cells; });
}

template <typename T>
void bind(nb::module_& m, const char* name) {
    using P = PyCells<T>;
    auto cls = nb::class_<P>(m, name);
    auto from_memory = [&](auto source) {
        using Source = decltype(source);
        cls.def(nb::init<const Strided<Source>&, const PyPlan&, const std::string&, int>(), "Z"_a.noconvert(), "plan"_a,
                nb::kw_only(), "instruction_set"_a, "n_threads"_a);
    };
    from_memory(float{});
    from_memory(double{});
    cls.def(nb::init<int, int64_t, const PyPlan&, const std::string&, int>(), "file"_a, "d"_a, "plan"_a, nb::kw_only(),
            "instruction_set"_a, "n_threads"_a);
    cls.attr("deepest") = DEEPEST<T>;
    cls.def("keep_weights", &P::keep_weights, "bytes"_a)
        .def("release", &P::release)
        .def("sweep", &P::sweep, "block"_a, "Y"_a, "sigma"_a, "logp"_a.none(), "moment"_a, "last"_a)
        .def("moments", &P::moments, "Y"_a, "sigma"_a, "logp"_a)
        .def("correct", &P::correct, "Y"_a, "sigma"_a, "logp"_a, "W"_a, "moment"_a)
        .def("emit", &P::template emit<float>, "Y"_a, "sigma"_a, "logp"_a, "W"_a, "out"_a.noconvert(), "moment"_a)
        .def("emit", &P::template emit<double>, "Y"_a, "sigma"_a, "logp"_a, "W"_a, "out"_a.noconvert(), "moment"_a)
        .def("emit_in_place", &P::emit_in_place, "Y"_a, "sigma"_a, "logp"_a, "W"_a, "moment"_a)
        .def("assign", &P::assign, "Y"_a, "sigma"_a, "logp"_a, "order"_a, "out"_a.noconvert());
}

} // namespace
} // namespace harmonax

NB_MODULE(_native, m) {
    m.doc() = "Native kernels of harmonax.";
    harmonax::bind_plan(m);
    using harmonax::ArrayPool;
    nb::class_<ArrayPool>(m, "ArrayPool")
        .def(nb::init<>())
        .def("empty", [](ArrayPool& self, const std::vector<size_t>& shape) {
            double* unused;
            return self.empty(shape, &unused);
        });
    harmonax::bind<float>(m, "Cells32");
    harmonax::bind<double>(m, "Cells64");
    m.def("solve_ridge", &harmonax::ridge_of, nb::kw_only(), "joint_levels"_a, "largest"_a, "first"_a, "stop"_a, "S"_a,
          "mass"_a, "active"_a, "lam"_a, "keep"_a, "anchor_moment"_a, "anchor_mass"_a, "least"_a, "n_threads"_a,
          "pool"_a);
    m.def("instruction_sets", [] {
        nb::list names;
        for (const char* name : harmonax::instruction_sets()) names.append(name);
        return names;
    });
}
