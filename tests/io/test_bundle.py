"""The container of models and checkpoints: exact, without code, and refused where it is not what was written."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from harmonax import io
from harmonax.engine.checkpoint import Checkpoint
from harmonax.errors import FileFormatError, InputError

KIND = io.Bundle("thing", 3, "thing of ours", "make it again")
ARRAYS: dict[str, Any] = {
    "inner": {"names": np.array(["a/b", "é", ""], object), "x": np.arange(6.0).reshape(2, 3) / 7},
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "one": np.float64(0.1),
}


def written(path: Path) -> Path:
    file = io.ZARR if path.suffix == ".zarr" else io.H5AD
    io.write_bundle(path, file, io.seal(KIND, {"who": "me", "last": np.float64(0.1)}, ARRAYS))
    return path


def opened(path: Path, kind: io.Bundle = KIND) -> tuple[dict[str, Any], dict[str, Any]]:
    plain = io.read_bundle(path, io.ZARR if path.suffix == ".zarr" else io.H5AD, kind)
    return io.unseal(plain, kind, str(path)), plain


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_what_is_written_is_read(tmp_path, suffix):
    about, plain = opened(written(tmp_path / f"a{suffix}"))
    assert about == {"who": "me", "last": 0.1}
    assert list(plain["inner"]["names"]) == list(ARRAYS["inner"]["names"])
    for name in ("mask", "empty", "one"):
        assert np.asarray(plain[name]).dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(plain[name], ARRAYS[name])
    np.testing.assert_array_equal(plain["inner"]["x"], ARRAYS["inner"]["x"])


@pytest.mark.parametrize("place", ["inner/x", "mask", "one", "about", "inner/names"])
def test_a_change_anywhere_is_seen(tmp_path, place):
    with h5py.File(written(tmp_path / "a.h5"), "r+") as file:
        value = file[place]
        if value.dtype.kind == "O":
            value[(0,) * value.ndim] = "other"
        else:
            value[(0,) * value.ndim] = 1 - value[(0,) * value.ndim] if value.dtype.kind == "f" else False
    with pytest.raises(FileFormatError, match=r"a\.h5 is damaged: its checksum does not fit; make it again"):
        opened(tmp_path / "a.h5")


@pytest.mark.parametrize("change", ["missing", "added", "renamed"])
def test_so_are_arrays_that_come_and_go(tmp_path, change):
    with h5py.File(written(tmp_path / "a.h5"), "r+") as file:
        if change == "added":
            file["more"] = 1
        else:
            file.move("mask", "mast") if change == "renamed" else file.pop("mask")
    with pytest.raises(FileFormatError, match=r"a\.h5"):
        opened(tmp_path / "a.h5")


def test_other_kinds_and_later_versions_are_refused(tmp_path):
    path = written(tmp_path / "a.h5")
    with pytest.raises(FileFormatError, match="holds no other thing"):
        opened(path, KIND._replace(name="other", what="other thing"))
    with pytest.raises(FileFormatError, match="version 3 of the format; this harmonax reads up to 2: update it"):
        opened(path, KIND._replace(version=2))
    assert opened(path, KIND._replace(version=4))[0]["who"] == "me"
    with pytest.raises(InputError, match="no such file"):
        opened(tmp_path / "none.h5")


def test_no_more_is_read_than_the_file_holds(tmp_path):
    path = written(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.create_dataset("huge", (1 << 40,), np.float64)
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="it claims more than it holds"):
        opened(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    content = written(tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=r"a\.h5 is not a readable"):
        opened(tmp_path / "a.h5")


@pytest.mark.thorough
def test_a_flipped_bit_is_refused_or_says_nothing(tmp_path):
    good = written(tmp_path / "a.h5").read_bytes()
    refused = 0
    for at in range(0, len(good), 37):
        (tmp_path / "a.h5").write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
        try:
            about, plain = opened(tmp_path / "a.h5")
        except FileFormatError:
            refused += 1
            continue
        assert about == {"who": "me", "last": 0.1}
        np.testing.assert_array_equal(plain["inner"]["x"], ARRAYS["inner"]["x"])
    assert refused > 10


def test_rounds_of_an_earlier_version_are_refused(tmp_path):
    (tmp_path / "checkpoint.json").write_text('{"format": 1, "seed": 0}')
    np.savez(tmp_path / "round-0001.npz", Y=np.zeros(3))
    with pytest.raises(InputError, match="is not a checkpoint of this version of harmonax; choose another directory"):
        Checkpoint(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
