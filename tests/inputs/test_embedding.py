"""An embedding is read once, whatever it comes as, into a value that says what it is."""

from __future__ import annotations

import hashlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import harmonax
from harmonax.errors import InputError, MissingKeyError
from harmonax.inputs.embedding import Embedding, Kind, kind_of, read_embedding, read_obsm, take_rows
from harmonax.inputs.rows import Rows
from harmonax.inputs.values import ValueCheck, begin_digest, data_hash, end_digest

N, D = 41, 3
TRUTH = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


class Spied:
    """Gives rows as a data set does, and notes which."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.times_read = np.zeros(len(values), int)

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.times_read[rows] += 1
        return self.values[rows]


class SpiedRows(Rows):
    def __init__(self, values: np.ndarray) -> None:
        super().__init__(values.shape, values.dtype)
        self.values, self.times_read = values, np.zeros(len(values), int)

    def read(self, start: int, stop: int) -> np.ndarray:
        self.times_read[start:stop] += 1
        return self.values[start:stop]


@pytest.fixture
def rows_checked(monkeypatch):
    """How many rows were looked at for values that cannot be corrected."""
    seen, add = [], ValueCheck.add
    monkeypatch.setattr(ValueCheck, "add", lambda self, slab: (seen.append(len(slab)), add(self, slab))[1])
    return lambda: sum(seen)


def dask_array(tmp_path):
    return pytest.importorskip("dask.array").from_array(TRUTH, chunks=(10, D))


def zarr_array(tmp_path):
    zarr = pytest.importorskip("zarr")
    array = zarr.open_array(str(tmp_path / "z.zarr"), mode="w", shape=TRUTH.shape, chunks=(10, D), dtype="f4")
    array[:] = TRUTH
    return array


def hdf5_data_set(tmp_path):
    return h5py.File(tmp_path / "z.h5", "w").create_dataset("Z", data=TRUTH)


def memory_mapped(tmp_path):
    np.save(tmp_path / "z.npy", TRUTH)
    return np.load(tmp_path / "z.npy", mmap_mode="r")


# What users have, where it is, and the dtype of what is read.
SOURCES = {
    "float32": (lambda _: TRUTH, Kind.ARRAY, "f4"),
    "float64": (lambda _: TRUTH.astype(np.float64), Kind.ARRAY, "f8"),
    "float16": (lambda _: TRUTH.astype(np.float16), Kind.ARRAY, "f4"),
    "byte-swapped float32": (lambda _: TRUTH.astype(">f4"), Kind.ARRAY, "f4"),
    "byte-swapped float64": (lambda _: TRUTH.astype(">f8"), Kind.ARRAY, "f8"),
    "integers": (lambda _: np.round(9 * TRUTH).astype(np.int64), Kind.ARRAY, "f8"),
    "truth values": (lambda _: TRUTH > 0, Kind.ARRAY, "f8"),
    "columns first": (lambda _: np.asfortranarray(TRUTH), Kind.ARRAY, "f4"),
    "lists": (lambda _: TRUTH.astype(np.float64).tolist(), Kind.ARRAY, "f8"),
    "a DataFrame": (lambda _: pd.DataFrame(TRUTH), Kind.ARRAY, "f4"),
    "nullable numbers": (lambda _: pd.DataFrame(TRUTH.astype(np.float64)).astype("Float64"), Kind.ARRAY, "f8"),
    "sparse rows": (lambda _: scipy.sparse.csr_matrix(TRUTH), Kind.ARRAY, "f4"),
    "sparse columns": (lambda _: scipy.sparse.csc_array(TRUTH), Kind.ARRAY, "f4"),
    "memory-mapped": (memory_mapped, Kind.ARRAY, "f4"),
    "an HDF5 data set": (hdf5_data_set, Kind.ROWS, "f4"),
    "a Zarr array": (zarr_array, Kind.ROWS, "f4"),
    "rows of a file": (lambda _: SpiedRows(TRUTH), Kind.ROWS, "f4"),
    "a Dask array": (dask_array, Kind.DASK, "f4"),
}


def expected(name: str) -> np.ndarray:
    if name == "integers":
        return np.round(9 * TRUTH)
    if name == "truth values":
        return TRUTH > 0
    return TRUTH.astype(np.float16) if name == "float16" else TRUTH


@pytest.mark.parametrize("name", SOURCES)
class TestEverySource:
    def test_it_is_told_what_it_is(self, name, tmp_path):
        make, kind, dtype = SOURCES[name]
        read = read_embedding(make(tmp_path))
        assert (read.kind, read.shape, read.dtype, len(read)) == (kind, (N, D), np.dtype(dtype), N)
        assert kind_of(read) is kind
        assert read.in_memory == (kind is Kind.ARRAY)

    def test_its_values_are_the_users(self, name, tmp_path):
        make, _, dtype = SOURCES[name]
        read = read_embedding(make(tmp_path))
        array = read.array()
        assert type(array) is np.ndarray or isinstance(array, np.memmap)
        assert array.dtype == np.dtype(dtype)
        assert array.dtype.isnative
        np.testing.assert_array_equal(array, expected(name))
        assert read.load().kind is Kind.ARRAY

    def test_pieces_make_the_whole(self, name, tmp_path):
        read = read_embedding(SOURCES[name][0](tmp_path))
        starts, pieces = zip(*read.chunks(slab_bytes=7 * D * read.dtype.itemsize), strict=True)
        assert list(starts) == list(range(0, N, 7))
        np.testing.assert_array_equal(np.concatenate(pieces), expected(name))

    def test_some_rows(self, name, tmp_path):
        source = SOURCES[name][0](tmp_path)
        numbers = np.array([0, 3, 4, 17, N - 1])
        np.testing.assert_array_equal(read_embedding(source).rows(numbers), expected(name)[numbers])
        np.testing.assert_array_equal(take_rows(source, numbers), expected(name)[numbers])

    def test_reading_again_gives_the_same_value(self, name, tmp_path):
        read = read_embedding(SOURCES[name][0](tmp_path))
        assert read_embedding(read) is read

    def test_the_source_stays_as_it_is(self, name, tmp_path):
        source = SOURCES[name][0](tmp_path)
        read_embedding(source).array()
        np.testing.assert_array_equal(take_rows(source, np.arange(N)), expected(name))


class TestReadOnce:
    @pytest.mark.parametrize("make", [np.array, lambda v: v.astype(np.float64), np.asfortranarray])
    def test_an_array_of_floats_is_not_copied(self, make):
        source = make(TRUTH)
        assert read_embedding(source).source is source
        assert read_embedding(source).array() is source

    def test_a_memory_map_is_not_copied(self, tmp_path):
        source = memory_mapped(tmp_path)
        assert np.shares_memory(read_embedding(source).array(), source)

    @pytest.mark.parametrize("spied", [Spied, SpiedRows])
    def test_what_is_elsewhere_is_not_read_until_it_is_used(self, spied):
        source = spied(TRUTH)
        read = read_embedding(source)
        read.digest()
        assert not source.times_read.any()
        assert read.source is source

    @pytest.mark.parametrize("spied", [Spied, SpiedRows])
    @pytest.mark.parametrize("use", [Embedding.array, Embedding.load, lambda read: list(read.chunks(30))])
    def test_and_then_each_row_once(self, spied, use):
        source = spied(TRUTH)
        use(read_embedding(source))
        assert (source.times_read == 1).all()

    @pytest.mark.parametrize("backend", ["memory", "dense"])
    @pytest.mark.parametrize("spied", [Spied, SpiedRows])
    def test_a_run_reads_each_row_once(self, spied, backend):
        source, batch = spied(TRUTH), np.arange(N) % 2
        run = harmonax.harmonize(source, batch, rng=0, backend=backend, progress=False)
        assert (source.times_read == 1).all()
        same = harmonax.harmonize(TRUTH, batch, rng=0, backend=backend, progress=False)
        np.testing.assert_array_equal(run.embedding, same.embedding)

    def test_a_run_checks_each_value_once(self, rows_checked):
        harmonax.harmonize(TRUTH, np.arange(N) % 2, rng=0, backend="memory", progress=False)
        assert rows_checked() == N

    def test_nor_again_where_it_was_read_before(self, rows_checked):
        read = read_embedding(TRUTH)
        harmonax.harmonize(read, np.arange(N) % 2, rng=0, backend="memory", progress=False)
        assert rows_checked() == N

    def test_nor_in_an_anndata(self, rows_checked):
        obs = pd.DataFrame({"batch": ["a", "b"] * 20 + ["a"]}, index=[f"cell{i}" for i in range(N)])
        adata = anndata.AnnData(obs=obs, obsm={"X_pca": TRUTH})
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, verbose=False)
        assert rows_checked() == N

    def test_nor_through_harmonypys_front(self, rows_checked):
        harmonax.run_harmony(TRUTH, {"batch": np.arange(N) % 2}, "batch", verbose=False)
        assert rows_checked() == N

    def test_a_value_that_was_read_gives_the_bits_of_its_source(self):
        batch = np.arange(N) % 2
        one, other = (
            harmonax.harmonize(Z, batch, rng=0, backend="memory", progress=False)
            for Z in (TRUTH, read_embedding(TRUTH))
        )
        np.testing.assert_array_equal(one.embedding, other.embedding)


class TestDigest:
    def test_it_is_the_hash_of_dtype_shape_and_values(self):
        truth = hashlib.sha256(b"<f4 (41, 3)\n" + TRUTH.tobytes()).hexdigest()
        assert read_embedding(TRUTH).digest().hexdigest() == truth

    def test_with_the_batches_it_is_that_of_a_run(self):
        from harmonax.design import BatchDesign

        design = BatchDesign.from_codes(np.arange(N) % 2)
        assert end_digest(read_embedding(TRUTH).digest(), design) == data_hash(TRUTH, design)

    @pytest.mark.parametrize("name", ["an HDF5 data set", "a Zarr array", "rows of a file"])
    def test_what_is_elsewhere_is_hashed_as_it_is_read(self, name, tmp_path):
        read = read_embedding(SOURCES[name][0](tmp_path))
        digest = read.digest()
        assert digest.hexdigest() == begin_digest(TRUTH.dtype, TRUTH.shape).hexdigest()
        read.load(digest)
        assert digest.hexdigest() == read_embedding(TRUTH).digest().hexdigest()

    def test_a_dask_array_is_told_by_its_name(self, tmp_path):
        array = dask_array(tmp_path)
        digests = {read_embedding(each).digest().hexdigest() for each in (array, array, array + 1)}
        assert len(digests) == 2

    @pytest.mark.parametrize("other", [TRUTH[::-1], TRUTH.astype(np.float64), TRUTH[1:], TRUTH[:, ::-1]])
    def test_other_values_have_another(self, other):
        assert read_embedding(other).digest().hexdigest() != read_embedding(TRUTH).digest().hexdigest()


def broken(row: int, value: float) -> np.ndarray:
    Z = TRUTH.copy()
    Z[row, 1] = value
    return Z


class TestRefused:
    @pytest.mark.parametrize(
        ("Z", "message"),
        [
            (TRUTH[:, 0], r"^Z has shape \(41,\); allowed is \(cells, features\)$"),
            (TRUTH[:1], "^Z has 1 cells; at least 2 are needed$"),
            (TRUTH[:, :0], "^Z has no features$"),
            (broken(5, np.nan), r"^Z has NaN or infinite values in 1 cells \(first: row 5\); remove or repair them$"),
            (broken(5, np.inf), "first: row 5"),
            (TRUTH * 1e17, "^Z has values up to .*; allowed is up to 1e[+]15: rescale it$"),
            (TRUTH * 1e-20, "^Z has no value above .*; allowed is from 1e-15 on: rescale it$"),
            (TRUTH.astype(np.complex64), "^Z has dtype complex64; allowed are real numbers$"),
            (np.full((N, D), "1"), "^Z has dtype <U1; allowed are real numbers$"),
            ([[1.0, 2.0], [3.0]], "^Z is not an array of numbers: "),
        ],
    )
    def test_in_memory(self, Z, message):
        with pytest.raises(InputError, match=message):
            read_embedding(Z, what="Z")

    @pytest.mark.parametrize(
        ("Z", "message"),
        [
            (TRUTH[:, 0], r"^Z has shape \(41,\)"),
            (TRUTH[:1], "^Z has 1 cells"),
            (TRUTH.astype(np.complex64), "^Z has dtype complex64; allowed are real numbers$"),
            (np.full((N, D), "1", object), "^Z has dtype object; allowed are real numbers$"),
        ],
    )
    def test_elsewhere_before_it_is_read(self, Z, message):
        source = Spied(Z)
        with pytest.raises(InputError, match=message):
            read_embedding(source, what="Z")
        assert not source.times_read.any()

    @pytest.mark.parametrize("use", [Embedding.load, lambda read: list(read.chunks(100))])
    def test_elsewhere_when_it_is_read(self, use):
        read = read_embedding(Spied(broken(30, np.nan)), what="Z", cells=[f"cell{i}" for i in range(N)])
        with pytest.raises(InputError, match=r"^Z has NaN or infinite values in 1 cells \(first: cell 'cell30'\)"):
            use(read)

    def test_too_few_cells_for_who_asks_again(self):
        read = read_embedding(TRUTH[:1], what="Z", min_cells=1)
        with pytest.raises(InputError, match=r"^Z has 1 cells; at least 2 are needed$"):
            read_embedding(read)

    def test_a_basis_that_is_not_there(self):
        adata = anndata.AnnData(obsm={"X_pca": TRUTH})
        assert read_obsm(adata, "X_pca").what == "obsm['X_pca']"
        with pytest.raises(MissingKeyError, match=r"^obsm has no 'X_pcb'; did you mean 'X_pca'\?; make it$"):
            read_obsm(adata, "X_pcb", "; make it")


def test_a_value_is_frozen():
    with pytest.raises(AttributeError):
        read_embedding(TRUTH).kind = Kind.DASK
