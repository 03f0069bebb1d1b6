// Python's view of the cells. Shapes are checked here, in one place; everything behind trusts them.
#include "cells.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>

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

template <typename... Size>
nb::ndarray<nb::numpy, double> new_array(double** data, Size... size) {
    size_t shape[] = {(size_t)size...}, total = 1;
    for (size_t s : shape) total *= s;
    *data = new double[total ? total : 1];
    nb::capsule owner(*data, [](void* p) noexcept { delete[] static_cast<double*>(p); });
    return nb::ndarray<nb::numpy, double>(*data, sizeof...(size), shape, owner);
}

// The arrays of a Plan, kept alive with it.
struct PlanArrays {
    Array<int64_t, 1> order, segment_start, block_segment, block_grain, grain_segment, segments_by_joint, unit_segment;
    Array<int32_t, 1> segment_joint, segment_block;
    Array<int32_t, 2> joint_levels;

    Plan plan(int64_t d, int64_t n_levels) const {
        Plan p{};
        p.d = d;
        p.n_joint = joint_levels.shape(0);
        p.n_variables = joint_levels.shape(1);
        p.n_levels = n_levels;
        p.n_segments = segment_joint.shape(0);
        p.n_blocks = (int64_t)block_segment.shape(0) - 1;
        p.n_grains = (int64_t)grain_segment.shape(0) - 1;
        p.n_units = (int64_t)unit_segment.shape(0) - 1;
        require(p.n_blocks >= 1 && p.n_grains >= 0 && p.n_units >= 0, "a plan needs bounds");
        require((int64_t)segment_start.shape(0) == p.n_segments + 1, "segment_start has the wrong length");
        p.n_cells = segment_start.data()[p.n_segments];
        require(order.shape(0) == 0 || (int64_t)order.shape(0) == p.n_cells, "order has the wrong length");
        require((int64_t)segment_block.shape(0) == p.n_segments, "segment_block has the wrong length");
        require((int64_t)segments_by_joint.shape(0) == p.n_segments, "segments_by_joint has the wrong length");
        require((int64_t)block_grain.shape(0) == p.n_blocks + 1, "block_grain has the wrong length");
        p.order = order.shape(0) ? order.data() : nullptr;
        p.segment_start = segment_start.data();
        p.segment_joint = segment_joint.data();
        p.segment_block = segment_block.data();
        p.joint_levels = joint_levels.data();
        p.block_segment = block_segment.data();
        p.block_grain = block_grain.data();
        p.grain_segment = grain_segment.data();
        p.segments_by_joint = segments_by_joint.data();
        p.unit_segment = unit_segment.data();
        return p;
    }
};

template <typename T>
struct PyCells {
    PlanArrays arrays;
    std::unique_ptr<Cells<T>> cells;

    template <typename Source>
    PyCells(const Strided<Source>& Z, PlanArrays kept, int64_t n_levels, const std::string& set, int n_threads)
        : arrays(std::move(kept)) {
        const Plan plan = arrays.plan(Z.shape(1), n_levels);
        require((int64_t)Z.shape(0) >= plan.n_cells, "the order is longer than Z");
        require(plan.order || plan.n_cells == 0, "cells in memory need an order");
        require(n_threads >= 1, "n_threads must be at least 1");
        const InstructionSet& chosen = instruction_set(set.c_str());
        cells = unlocked([&] {
            return std::make_unique<Cells<T>>(plan, Z.data(), Z.stride(0), Z.stride(1), chosen, n_threads, interrupted);
        });
    }

    PyCells(int file, int64_t d, PlanArrays kept, int64_t n_levels, const std::string& set, int n_threads)
        : arrays(std::move(kept)) {
        const Plan plan = arrays.plan(d, n_levels);
        require(n_threads >= 1, "n_threads must be at least 1");
        const InstructionSet& chosen = instruction_set(set.c_str());
        cells = unlocked([&] { return std::make_unique<Cells<T>>(plan, file, chosen, n_threads, interrupted); });
    }

    Centroids centroids(const Array<double, 2>& Y, const Array<double, 1>& sigma) const {
        require((int64_t)Y.shape(1) == cells->plan().d, "Y has the wrong number of features");
        require(sigma.shape(0) == Y.shape(0), "sigma needs one value per cluster");
        return {Y.data(), sigma.data(), (int64_t)Y.shape(0)};
    }
    void check_logp(const Array<double, 3>& logp, int64_t K) const {
        require((int64_t)logp.shape(0) == cells->plan().n_blocks && (int64_t)logp.shape(1) == cells->plan().n_levels &&
                    (int64_t)logp.shape(2) == K,
                "logp must be n_blocks x n_levels x K");
    }
    void check_W(const Array<double, 3>& W, int64_t K) const {
        require((int64_t)W.shape(0) == cells->plan().n_levels && (int64_t)W.shape(1) == K &&
                    (int64_t)W.shape(2) == cells->plan().d,
                "W must be n_levels x K x d");
    }

    nb::tuple sweep(int64_t block, const Array<double, 2>& Y, const Array<double, 1>& sigma,
                    const std::optional<Array<double, 2>>& logp, bool want_moment, bool last) {
        const Plan& p = cells->plan();
        const Centroids c = centroids(Y, sigma);
        require(block >= 0 && block < p.n_blocks, "no such block");
        require(!logp || ((int64_t)logp->shape(0) == p.n_levels && (int64_t)logp->shape(1) == c.K),
                "logp must be n_levels x K");
        double *mass, *moment;
        nb::object mass_array = nb::cast(new_array(&mass, p.n_levels, c.K));
        nb::object moment_array = nb::cast(new_array(&moment, want_moment ? c.K : 0, p.d));
        const double* table = logp ? logp->data() : nullptr;
        const BlockSums s = unlocked(
            [&] { return cells->sweep(block, c, table, mass, want_moment ? moment : nullptr, last, interrupted); });
        return nb::make_tuple(mass_array, s.log_partition, s.entropy, moment_array);
    }

    nb::tuple moments(const Array<double, 2>& Y, const Array<double, 1>& sigma, const Array<double, 3>& logp) {
        const Plan& p = cells->plan();
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        double *S, *mass;
        nb::object S_array = nb::cast(new_array(&S, p.n_joint, c.K, p.d)),
                   mass_array = nb::cast(new_array(&mass, p.n_joint, c.K));
        unlocked([&] { cells->moments(c, logp.data(), S, mass, interrupted); });
        return nb::make_tuple(S_array, mass_array);
    }

    nb::object correct(const Array<double, 2>& Y, const Array<double, 1>& sigma, const Array<double, 3>& logp,
                       const Array<double, 3>& W, bool want_moment) {
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        check_W(W, c.K);
        double* moment;
        nb::object moment_array = nb::cast(new_array(&moment, want_moment ? c.K : 0, cells->plan().d));
        unlocked([&] { cells->correct(c, logp.data(), W.data(), want_moment ? moment : nullptr, interrupted); });
        return moment_array;
    }

    template <typename O>
    nb::object emit(const Array<double, 2>& Y, const Array<double, 1>& sigma, const Array<double, 3>& logp,
                    const Array<double, 3>& W, Out<O> out, bool want_moment) {
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        check_W(W, c.K);
        require(!cells->in_file(), "cells in a file are emitted in place");
        require((int64_t)out.shape(0) == cells->plan().n_cells && (int64_t)out.shape(1) == cells->plan().d,
                "out must be n_cells x d");
        float* out32 = nullptr;
        double* out64 = nullptr;
        if constexpr (sizeof(O) == 4)
            out32 = out.data();
        else
            out64 = out.data();
        double* moment;
        nb::object moment_array = nb::cast(new_array(&moment, want_moment ? c.K : 0, cells->plan().d));
        unlocked(
            [&] { cells->emit(c, logp.data(), W.data(), want_moment ? moment : nullptr, out32, out64, interrupted); });
        return moment_array;
    }

    nb::object emit_in_place(const Array<double, 2>& Y, const Array<double, 1>& sigma, const Array<double, 3>& logp,
                             const Array<double, 3>& W, bool want_moment) {
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        check_W(W, c.K);
        require(cells->in_file(), "cells in memory are emitted to an array");
        double* moment;
        nb::object moment_array = nb::cast(new_array(&moment, want_moment ? c.K : 0, cells->plan().d));
        unlocked([&] { cells->emit_in_place(c, logp.data(), W.data(), want_moment ? moment : nullptr, interrupted); });
        return moment_array;
    }

    void assign(const Array<double, 2>& Y, const Array<double, 1>& sigma, const Array<double, 3>& logp,
                const Array<int64_t, 1>& order, Out<T> out) {
        const Centroids c = centroids(Y, sigma);
        check_logp(logp, c.K);
        require((int64_t)order.shape(0) == cells->plan().n_cells, "order has the wrong length");
        require((int64_t)out.shape(0) == cells->plan().n_cells && (int64_t)out.shape(1) == c.K,
                "out must be n_cells x K");
        unlocked([&] { cells->assign(c, logp.data(), order.data(), out.data(), interrupted); });
    }
};

template <typename T>
void bind(nb::module_& m, const char* name) {
    using P = PyCells<T>;
    auto cls = nb::class_<P>(m, name);
    auto constructor = [&](auto source) {
        using Source = decltype(source);
        cls.def(
            "__init__",
            [](P* self, const Strided<Source>& Z, Array<int64_t, 1> order, Array<int64_t, 1> segment_start,
               Array<int32_t, 1> segment_joint, Array<int32_t, 1> segment_block, Array<int32_t, 2> joint_levels,
               Array<int64_t, 1> block_segment, Array<int64_t, 1> block_grain, Array<int64_t, 1> grain_segment,
               Array<int64_t, 1> segments_by_joint, Array<int64_t, 1> unit_segment, int64_t n_levels,
               const std::string& instruction_set, int n_threads) {
                new (self) P(Z,
                             PlanArrays{order, segment_start, block_segment, block_grain, grain_segment,
                                        segments_by_joint, unit_segment, segment_joint, segment_block, joint_levels},
                             n_levels, instruction_set, n_threads);
            },
            "Z"_a.noconvert(), nb::kw_only(), "order"_a, "segment_start"_a, "segment_joint"_a, "segment_block"_a,
            "joint_levels"_a, "block_segment"_a, "block_grain"_a, "grain_segment"_a, "segments_by_joint"_a,
            "unit_segment"_a, "n_levels"_a, "instruction_set"_a, "n_threads"_a);
    };
    constructor(float{});
    constructor(double{});
    cls.def(
        "__init__",
        [](P* self, int file, int64_t d, Array<int64_t, 1> order, Array<int64_t, 1> segment_start,
           Array<int32_t, 1> segment_joint, Array<int32_t, 1> segment_block, Array<int32_t, 2> joint_levels,
           Array<int64_t, 1> block_segment, Array<int64_t, 1> block_grain, Array<int64_t, 1> grain_segment,
           Array<int64_t, 1> segments_by_joint, Array<int64_t, 1> unit_segment, int64_t n_levels,
           const std::string& instruction_set, int n_threads) {
            new (self) P(file, d,
                         PlanArrays{order, segment_start, block_segment, block_grain, grain_segment, segments_by_joint,
                                    unit_segment, segment_joint, segment_block, joint_levels},
                         n_levels, instruction_set, n_threads);
        },
        "file"_a, "d"_a, nb::kw_only(), "order"_a, "segment_start"_a, "segment_joint"_a, "segment_block"_a,
        "joint_levels"_a, "block_segment"_a, "block_grain"_a, "grain_segment"_a, "segments_by_joint"_a,
        "unit_segment"_a, "n_levels"_a, "instruction_set"_a, "n_threads"_a);
    cls.def("sweep", &P::sweep, "block"_a, "Y"_a, "sigma"_a, "logp"_a.none(), "moment"_a, "last"_a)
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
    harmonax::bind<float>(m, "Cells32");
    harmonax::bind<double>(m, "Cells64");
    m.def("instruction_sets", [] {
        nb::list names;
        for (const char* name : harmonax::instruction_sets()) names.append(name);
        return names;
    });
}
