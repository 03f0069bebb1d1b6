"""Labels and names of genes as files have them mean the same to every front."""

from __future__ import annotations

import click
import numpy as np
import pandas as pd
import pytest
from queries import experiment, logged, reference

import harmonax
from harmonax.cli.values import Names
from harmonax.errors import HarmonaxWarning, InputError
from harmonax.inputs.genes import find_genes, remedy
from harmonax.mapping.projection import Projection
from harmonax.mapping.reference import Reference


@pytest.fixture
def gaps(adata):
    batch = adata.obs["batch"].astype(str).to_numpy().astype(object)
    batch[:9] = "nan"
    adata.obs["batch"] = batch
    return adata


def test_text_that_stands_for_a_missing_batch_is_one_everywhere(gaps):
    with pytest.raises(InputError, match="9 missing values"):
        harmonax.pp.harmony_integrate(gaps, "batch")
    assert "X_pca_harmony" not in gaps.obsm
    found = harmonax.tl.check(gaps, "batch")
    assert "missing_labels" in [finding.code for finding in found.findings]
    assert "nan" not in set(found.batches["level"])
    with pytest.warns(HarmonaxWarning, match="9 of 180 cells have no batch"):
        assert harmonax.tl.evaluate(gaps, "batch").n_used == 171


def test_or_a_name_everywhere(gaps):
    gaps.obs["batch"] = np.where(gaps.obs["batch"] == "nan", "NA", gaps.obs["batch"])
    harmonax.pp.harmony_integrate(gaps, "batch", missing="literal", rng=0, verbose=False)
    found = harmonax.tl.check(gaps, "batch", missing="literal")
    assert "missing_labels" not in [finding.code for finding in found.findings]
    assert "NA" in set(found.batches["level"])
    assert harmonax.tl.evaluate(gaps, "batch", missing="literal").n_used == 180
    for front in (harmonax.tl.check, harmonax.tl.evaluate):
        with pytest.raises(InputError, match="missing='level'"):
            front(gaps, "batch", missing="level")


def test_a_label_that_is_missing_has_no_vote():
    labels = pd.DataFrame({"type": ["a", "nan", "b", "NA"] * 10})
    kept = Reference.of(np.random.default_rng(0).normal(size=(40, 3)), labels, np.zeros(40)).column("type")
    assert list(kept.names) == ["a", "b"]
    assert (kept.codes < 0).sum() == 20


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("a,b", ("a", "b")),
        ('"a,b",c', ("a,b", "c")),
        (r"a\,b,c", ("a,b", "c")),
        ('c, "a,b"', ("c", "a,b")),
        ("a b", ("a b",)),
    ],
)
def test_names_with_commas_on_the_command_line(given, names):
    assert Names().convert(given, None, None) == names


@pytest.mark.parametrize("given", ["", "a,", ",", "a,,b"])
def test_empty_names_are_refused(given):
    with pytest.raises(click.BadParameter, match="empty name"):
        Names().convert(given, None, None)


class TestGenes:
    def test_versions_do_not_matter(self):
        bare = pd.Index(["ENSG00000000001", "ENSG00000000002", "AC1.1"])
        versioned = pd.Index(["ENSG00000000002.7", "ENSG00000000001.12", "AC1.2"])
        assert find_genes(bare, versioned)[0].tolist() == [1, 0, -1]
        assert find_genes(versioned, bare)[0].tolist() == [1, 0, -1]
        # Two versions of one gene are not one.
        assert find_genes(bare, pd.Index(["ENSG00000000001.1", "ENSG00000000001.2"]))[0].tolist() == [-1, -1, -1]

    def test_a_query_with_versions_is_mapped_as_without(self):
        adata = reference(False)
        adata.var_names = [f"ENSG{i:011}.{i % 9}" for i in range(60)]
        projection, query = Projection.of(adata), logged(experiment(5, n=100))
        query.var_names = [f"ENSG{i:011}" for i in range(60)]
        assert not len(projection.match(query.var_names).missing)

    def test_another_case_is_told(self):
        genes = ["CD3E", "MS4A1", "NKG7", "LYZ"]
        assert "var_names.str.upper()" in remedy(genes, ["Cd3e", "Ms4a1", "Nkg7", "Lyz2"])
        assert not remedy(genes, ["ENSG00000000001"])
        projection, query = Projection.of(reference(False)), logged(experiment(5, n=100))
        projection.genes[:] = [f"G{i}" for i in range(60)]
        with pytest.raises(InputError, match=r"0 of the reference's 60 genes.*another case.*str\.upper"):
            projection.match(query.var_names)
