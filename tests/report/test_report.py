"""The report as a file: what it holds, that names stay text, that it fits, and that it says what is missing."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import re
import shlex
import sys
import warnings
import zlib
from importlib.resources import files

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sampling import first
from scipy import sparse

import harmonax
from harmonax.cli.report import report as report_command
from harmonax.errors import HarmonaxError, HarmonaxWarning, InputError, MissingExtraError, MissingKeyError, OutputError
from harmonax.evaluation.findings import Finding, Level, to_table
from harmonax.report import maps, write, write_report
from harmonax.report.colour_codes import MISSING, category, measured
from harmonax.report.figures import observed_to_expected
from harmonax.report.render import environment
from harmonax.report.text import clean, label, number

pytest.importorskip("plotly")
UndefinedError = pytest.importorskip("jinja2").UndefinedError

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"quoted\" 'twice' & <b>bold</b>",
    "héllo \u202egnirts\u2028 日本",
    "{x} %{y} $title ${points} <!-- <a href='javascript:alert(1)'>",
    "long " + "x" * 500,
]


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with attributes, and the text of each script."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tags, self.scripts, self.words = [], [], []
        self._in_script = False
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag in ("script", "style")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script and self.scripts:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self._in_script:
            self.words.append(data)

    @property
    def shown(self) -> str:
        return " ".join(" ".join(self.words).split())

    def json(self, name):
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("id") == name)

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def corrected(adata: anndata.AnnData) -> anndata.AnnData:
    """A copy with everything that a report can show."""
    adata = adata.copy()
    gen = np.random.default_rng(1)
    harmonax.pp.harmony_integrate(adata, "batch", max_iter_harmony=30, rng=0)
    for name in ("X_umap", "X_umap_uncorrected"):
        adata.obsm[name] = gen.normal(size=(adata.n_obs, 2)) * [3, 1]
    adata.obs["leiden"] = pd.Categorical(gen.choice(["0", "1", "2"], adata.n_obs))
    adata.obs["quality"] = gen.normal(size=adata.n_obs)
    adata.obs["harmonax_neighbors_kept"] = gen.random(adata.n_obs)
    adata.obs["harmonax_movement"] = gen.random(adata.n_obs)
    adata.uns |= {"harmonax_check": check_part(), "harmonax_evaluation": evaluation_part()}
    adata.uns |= {"harmonax_diagnosis": diagnosis_part(), "harmonax_workflow": workflow_part()}
    return adata


def table(rows, columns):
    return pd.DataFrame(rows, columns=columns, index=[str(i) for i in range(len(rows))])


def check_part():
    found = [Finding("mild", Level.NOTE, "a note"), Finding("bad", Level.PROBLEM, "a problem", "mend it")]
    components = [(i, 0.5 / (i + 1), "batch", 0.1 * i) for i in range(1, 6)]
    return {
        "verdict": "needed",
        "summary": "Correction is needed.",
        "batch_keys": np.array(["batch"], object),
        "findings": to_table(found),
        "associations": table([("batch", "donor", 0.25, "independent")], ["first", "second", "cramers_v", "relation"]),
        "components": table(components, ["component", "variance_share", "batch_key", "explained"]),
        "mixing": {"own_batch_excess": 0.5},
    }


def evaluation_part():
    columns = ["embedding", "batch_key", "metric", "kind", "value", "low", "high"]
    rows = [
        ("X_pca", "batch", "iLISI", "batch", 0.125, np.nan, np.nan),
        ("X_pca_harmony", "batch", "iLISI", "batch", 0.625, 0.55, 0.7),
        ("X_pca", "", "cLISI", "bio", 1.0, np.nan, np.nan),
        ("X_pca_harmony", "", "cLISI", "bio", np.nan, np.nan, np.nan),
    ]
    names = {"embeddings": np.array(["X_pca", "X_pca_harmony"], object), "batch_keys": np.array(["batch"], object)}
    sizes = {"n_cells": 60_000, "n_used": 50_000, "seed": 0, "label_key": "group", "baseline": "X_pca"}
    more = {"versions": {"scib_metrics": "0.5"}, "notes": np.array(["a word"], object)}
    return {"scores": table(rows, columns), **names, **sizes, **more}


def diagnosis_part():
    numbers = {"neighbours_kept": 0.9, "excess_before": 0.8, "excess_after": -0.01}
    numbers |= {"explained_before": 0.3, "explained_after": 0.01, "movement": 0.2}
    groups = ["group", "n_cells", "n_batches", "neighbours_kept", "own_batch_excess", "movement"]
    states = ["state", "batch", "n_cells", "merged_share", "verdict"]
    return {
        "verdict": "fine",
        "summary": "The correction looks right.",
        "findings": to_table([Finding("kept", Level.GOOD, "90% kept")]),
        "batch_keys": np.array(["batch"], object),
        "label_key": "group",
        "numbers": numbers,
        "null": {"batch": "a", "n_cells": 90, "neighbours_kept": 0.95, "neighbours_kept_all": 0.9, "movement": 0.01},
        "batches": table([("a", 90, 0.9), ("c", 30, np.nan)], ["batch", "n_cells", "neighbours_kept"]),
        "clusters": table([("T", 90, 3, 0.9, 0.1, 0.2), ("B", 90, 3, 0.5, -0.1, 0.2)], groups),
        "one_batch_states": table([("rare", "a", 12, 0.6, "merged")], states),
        "markers": table([("T", "CD3E", 0.9, 0.8)], ["cell_type", "gene", "before", "after"]),
    }


def workflow_part():
    steps = ["step", "status", "note", "seconds", "peak_memory_bytes"]
    return {
        "steps": table([("pca", "done", "", 1.5, 10**8), ("umap", "skipped", "not asked", 0.0, 10**8)], steps),
        "options": json.dumps({"min_genes": 200}),
        "versions": {"scanpy": "1.11"},
        "command": "harmonax run counts.h5ad -o out",
        "genes": {"n_genes_before": 100, "n_genes_after": 80},
        "cells": table([("batch", "a", 100, 90)], ["batch_key", "level", "n_before", "n_after"]),
    }


def leaves(part, above=()):
    """Give the place of everything that is stored in a dictionary of dictionaries."""
    for name, value in part.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from leaves(value, (*above, name))


def with_genes(adata: anndata.AnnData, X) -> anndata.AnnData:
    genes = pd.DataFrame(index=[f"G{i}" for i in range(X.shape[1])])
    return anndata.AnnData(X, obs=adata.obs, var=genes, obsm=dict(adata.obsm), uns=dict(adata.uns))


def decoded(column):
    return np.frombuffer(base64.b64decode(column), np.uint8)


def coordinates(about):
    return np.stack([np.frombuffer(base64.b64decode(about[k]), "<u2") for k in "xy"], axis=1).astype(float)


@pytest.fixture
def full(adata):
    return corrected(adata)


class TestPage:
    def test_loads_nothing_and_its_policy_lets_only_its_own_scripts_run(self, full, tmp_path):
        page = Page(write_report(full, tmp_path / "r.html"))
        assert all(link.startswith("#") for link in page.attributes("href"))
        assert not page.attributes("src")
        assert not re.search(r"@import|url\(", re.search(r"<style>(.*?)</style>", page.text, re.S)[1])
        policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'")
        assert "unsafe-eval" not in policy
        code = [text for attrs, text in page.scripts if "type" not in attrs]
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
        assert re.findall(r"'sha256-([^']+)'", policy) == hashes

    def test_headings_go_down_one_at_a_time_and_every_link_leads_somewhere(self, full, tmp_path):
        page = Page(write_report(full, tmp_path / "r.html"))
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        ids = page.attributes("id")
        assert len(ids) == len(set(ids))
        assert {link[1:] for link in page.attributes("href")} <= set(ids)
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]

    def test_every_part_is_there_and_the_verdict_comes_first(self, full, tmp_path):
        full.uns["harmonax_check"]["findings"] = to_table([Finding("note", Level.NOTE, "a note")])
        shown = Page(write_report(full, tmp_path / "r.html", title="My data")).shown
        assert (
            shown.index("My data") < shown.index("This correction can be trusted.") < shown.index("What was done Cells")
        )
        for word in ("80% → 0%", "90%", "CD3E", "rare", "iLISI", "+0.50", "[0.55, 0.70]", "harmony_integrate("):
            assert word in shown
        assert "not measured" not in shown

    def test_findings_are_listed_the_most_serious_first(self, full, tmp_path):
        shown = Page(write_report(full, tmp_path / "r.html")).shown
        assert shown.index("A problem") < shown.index("mend it") < shown.index("A note") < shown.index("90% kept")

    def test_the_same_seed_gives_the_same_page_and_the_data_are_not_changed(self, full, tmp_path):
        full.obs["endless"] = np.where(np.arange(full.n_obs) < 3, np.inf, full.obs["quality"])
        before = full.copy()
        first = write_report(full, tmp_path / "a.html").read_bytes()
        assert first == write_report(full, tmp_path / "b.html").read_bytes()
        assert set(full.uns) == set(before.uns)
        pd.testing.assert_frame_equal(full.obs, before.obs)
        np.testing.assert_array_equal(full.obsm["X_umap"], before.obsm["X_umap"])

    @pytest.mark.parametrize("end", [".h5ad", ".zarr"])
    @pytest.mark.parametrize("kind", first(1, [sparse.csr_matrix, np.asarray, sparse.csc_matrix]))
    def test_a_file_gives_the_same_page_as_what_it_holds(self, full, tmp_path, end, kind):
        if end == ".zarr":
            pytest.importorskip("zarr")
        full = with_genes(full, kind(np.random.default_rng(0).poisson(1.0, (full.n_obs, 5)).astype(np.float32)))
        source = tmp_path / f"data{end}"
        anndata.settings.allow_write_nullable_strings = True
        with warnings.catch_warnings():
            # zarr's plans for its own format.
            warnings.simplefilter("ignore", UserWarning)
            full.write_h5ad(source) if end == ".h5ad" else full.write_zarr(source)
        how = {"title": "T", "genes": ["G3", "G0"]}
        from_file = Page(write_report(source, tmp_path / "f.html", **how)).json("points")
        assert from_file == Page(write_report(full, tmp_path / "m.html", **how)).json("points")
        assert [c["name"] for c in from_file["columns"] if c["group"] == "Genes"] == ["G3", "G0"]


class TestMapping:
    def test_mapped_cells_have_a_section_of_their_own(self, adata, tmp_path):
        assert "fit the reference" not in Page(write_report(adata, tmp_path / "none.html")).shown
        harmonax.pp.harmony_integrate(adata, "batch", rng=0, save_model=True, save_labels="group", verbose=False)
        query = adata[:90].copy()
        query.obs["batch"] = np.where(np.arange(90) < 40, "a", "new<b>")
        with pytest.warns(HarmonaxWarning, match="batches of the same names"):
            harmonax.tl.map_query(query, adata, "batch", basis="X_pca")
        page = Page(write_report(query, tmp_path / "mapped.html"))
        shown = page.shown
        for word in (
            "reference of 180 cells in 6 soft clusters",
            "Transferred labels: group",
            "Where the novel cells are",
        ):
            assert word in shown
        assert "new<b>" in shown
        assert "learned there" in shown
        assert "found with the reference held fixed" in shown
        assert ("data-colour", "harmonax_novelty") in [item for _, attrs in page.tags for item in attrs.items()]


class TestNames:
    def test_hostile_names_are_text_everywhere(self, full, tmp_path):
        names = dict(zip("abc", HOSTILE, strict=False))
        full.obs[HOSTILE[0]] = pd.Categorical(full.obs["batch"].astype(str).map(names))
        full.obs["leiden"] = pd.Categorical(
            full.obs["leiden"].astype(str).map(dict(zip("012", HOSTILE[3:], strict=True)))
        )
        full.obs[HOSTILE[2]] = full.obs["quality"]
        harmonax.pp.harmony_integrate(full, HOSTILE[0], rng=0, max_iter_harmony=30)
        bad = HOSTILE[1]
        for key, column in (
            ("clusters", "group"),
            ("markers", "gene"),
            ("one_batch_states", "state"),
            ("batches", "batch"),
        ):
            full.uns["harmonax_diagnosis"][key][column] = bad
        full.uns["harmonax_diagnosis"] |= {"findings": to_table([Finding("x", Level.NOTE, bad, bad)]), "summary": bad}
        full.uns["harmonax_evaluation"]["scores"]["embedding"] = bad
        full.uns["harmonax_check"]["associations"]["first"] = bad
        full.uns["harmonax_check"]["components"]["batch_key"] = bad
        full.uns["harmonax_workflow"] |= {"command": bad, "options": json.dumps({bad: bad}), "versions": {bad: bad}}
        page = Page(write_report(full, tmp_path / "r.html", title=HOSTILE[1]))
        assert len(page.scripts) == 7
        assert not [1 for tag, _ in page.tags if tag in ("img", "a") and tag == "img"]
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
        assert HOSTILE[0] in page.shown
        assert all("alert" not in text for attrs, text in page.scripts[2:] if "type" not in attrs)
        points = page.json("points")
        batch = next(c for c in points["columns"] if c["name"] == HOSTILE[0])
        assert set(batch["levels"]) == {clean(name, 80) for name in HOSTILE[:3]}
        for attrs, text in page.scripts[:2]:
            assert attrs["type"] == "application/json"
            assert not set("<>&\u2028") & set(text)
        figures = json.dumps(page.json("figures"), ensure_ascii=False)
        # Plotly knows <br>, which we put there; anything else would be a name that it reads as markup.
        assert set(re.findall(r"<[^>]*>", figures)) <= {"<br>", "<extra>", "</extra>"}

    @pytest.mark.parametrize("name", HOSTILE)
    def test_what_a_template_is_given_reads_back_as_the_cleaned_name(self, name):
        filled = environment().from_string("{{ name|short(120) }}").render(name=name)
        assert html.unescape(filled) == clean(name)
        assert not set("<>\"'") & set(filled)
        assert html.unescape(environment().from_string("{{ name }}").render(name=name)) == clean(name, 2000)
        assert html.unescape(label(name, 999)) == clean(name, 999)
        assert len(clean(name)) <= 120
        assert "\u202e" not in clean(name)

    def test_text_beside_and_within_what_templates_made_is_escaped_once(self):
        source = (
            "{% macro p(x) %}<p>{{ x }}</p>{% endmacro %}{% set made %}{{ a }}{% endset %}{{ p(made) }}{{ p(a) ~ a }}"
        )
        assert environment().from_string(source).render(a="<i>") == "<p>&lt;i&gt;</p>" * 2 + "&lt;i&gt;"

    def test_a_misspelled_name_in_a_template_is_an_error(self):
        with pytest.raises(UndefinedError):
            environment().from_string("{{ nme }}").render(name="x")

    def test_only_what_the_page_made_itself_is_written_as_it_is(self):
        """`safe` and `e` switch the cleaning off: scripts, styles, rendered sections, JSON, and code to copy."""
        folder = files("harmonax.report") / "templates"
        pages = [*folder.iterdir(), *(folder / "sections").iterdir()]
        found = {
            (page.name, *words)
            for page in pages
            if page.is_file()
            for words in re.findall(r"\{\{ ([^}|]+)\|(safe|e) \}\}", page.read_text(encoding="utf-8"))
        }
        assert len(
            re.findall(r"\| *(?:safe|e)\b", "".join(p.read_text(encoding="utf-8") for p in pages if p.is_file()))
        ) == len(found)
        own = {("page.html", name, "safe") for name in ("style", "section.body", "figures")}
        own |= {("maps.html", name, "safe") for name in ("style", "body")}
        own |= {("end.html", name, "safe") for name in ("data", "script")}
        assert found == own | {("reproduce.html", "text", "e")}

    def test_without_jinja2_the_message_says_what_installs_it(self, full, tmp_path, monkeypatch):
        environment.cache_clear()
        monkeypatch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(MissingExtraError, match=r"jinja2 is not installed; .* pip install 'harmonax\[workflow\]'"):
            write_report(full, tmp_path / "r.html")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (-3, "\u22123"), (1234.5, "1,234"), (0.5, "0.500"), (1e-9, "1.00e-09"), ("x", "x")],
    )
    def test_numbers_are_readable(self, value, text):
        assert number(value) == text


class TestPoints:
    def test_coordinates_and_colours_belong_to_the_same_cells(self, full, tmp_path):
        points = Page(write_report(full, tmp_path / "r.html")).json("points")
        assert [m["key"] for m in points["maps"]] == ["X_umap_uncorrected", "X_umap"]
        batch = next(c for c in points["columns"] if c["name"] == "batch")
        labels = np.array(batch["levels"])[decoded(batch["codes"])]
        for about in points["maps"]:
            truth = full.obsm[about["key"]]
            width = np.ptp(truth, axis=0).max()
            found = coordinates(about) / 65534 * width
            found += truth.min(axis=0) - found.min(axis=0)
            # Whatever the order: each cell, with its batch, lies where it should, and no side is stretched.
            nearest = np.abs(found[:, None] - truth[None]).sum(axis=2).argmin(axis=1)
            assert sorted(nearest) == list(range(full.n_obs))
            assert np.abs(found - truth[nearest]).max() < width / 30_000
            assert (full.obs["batch"].astype(str).to_numpy()[nearest] == labels).all()

    def test_a_cell_without_a_place_is_not_drawn_at_one(self, full, tmp_path):
        full.obsm["X_umap"][3] = np.nan
        points = Page(write_report(full, tmp_path / "r.html")).json("points")
        places = coordinates(points["maps"][1])
        assert ((places == 65535).all(axis=1)).sum() == 1
        assert (places == 65535).any(axis=1).sum() == 1

    @pytest.mark.parametrize("basis", ["X_pca", "X_pca_harmony"])
    @pytest.mark.parametrize("value", [np.nan, -np.inf])
    def test_broken_values_of_the_embedding_are_told(self, full, tmp_path, basis, value):
        full.obsm[basis] = np.array(full.obsm[basis], np.float32)
        full.obsm[basis][3, -1] = full.obsm[basis][5] = value
        anndata.settings.allow_write_nullable_strings = True
        full.write_h5ad(tmp_path / "in.h5ad")
        for source in (full, tmp_path / "in.h5ad"):
            with pytest.warns(HarmonaxWarning, match=rf"obsm\['{basis}'\] has NaN or infinite values in 2 cells"):
                shown = Page(write_report(source, tmp_path / "r.html")).shown
            assert f"obsm['{basis}'] has NaN or infinite values in 2 cells" in shown
            assert "The embedding is damaged" in shown

    def test_numbers_are_kept_to_a_step_and_missing_ones_are_missing(self):
        values = np.linspace(-1, 1, 2001)
        values[7] = np.nan
        column = measured("x", values, np.arange(2001), "Numbers")
        low, high = column.about["low"], column.about["high"]
        back = low + column.codes / 254 * (high - low)
        inside = (values > low) & (values < high)
        assert np.abs(back - values)[inside].max() <= (high - low) / 254
        assert (column.codes == MISSING).nonzero()[0].tolist() == [7]
        assert column.about["below"]
        assert column.about["above"]

    @pytest.mark.parametrize("values", [[np.nan] * 4, [2.0] * 4, [np.inf, 1.0, 2.0, -np.inf]])
    def test_numbers_with_no_range_do_no_harm(self, values):
        column = measured("x", values, np.arange(4), "Numbers")
        assert column.about["high"] > column.about["low"]

    def test_levels_beyond_a_byte_are_shown_together(self):
        names = np.concatenate([np.repeat([f"big{i:03d}" for i in range(253)], 3), [f"rare{i}" for i in range(500)]])
        column = category("x", pd.Series(names), np.arange(len(names)), "Other columns")
        assert len(column.about["levels"]) == 254
        assert column.about["levels"][-1] == "(500 rarer levels together)"
        assert column.about["counts"][-1] == 500
        assert sum(column.about["counts"]) == len(names)
        assert (column.codes[-500:] == 253).all()

    def test_levels_keep_the_order_of_a_category_and_lose_the_empty_ones(self):
        values = pd.Series(pd.Categorical(["lo", "hi", None, "hi"], categories=["none", "lo", "hi"]))
        column = category("x", values, np.arange(4), "Batch")
        assert column.about["levels"] == ["lo", "hi"]
        assert column.codes.tolist() == [0, 1, MISSING, 1]
        assert column.about["missing"] == 1

    def test_what_is_asked_for_is_shown_in_that_order(self, full, tmp_path):
        full = with_genes(full, np.ones((full.n_obs, 3), np.float32))
        page = Page(write_report(full, tmp_path / "r.html", color_by=["quality", "donor"], genes=["G2"]))
        names = [c["name"] for c in page.json("points")["columns"]]
        assert names == ["quality", "donor", "harmonax_neighbors_kept", "harmonax_movement", "G2"]

    def test_the_top_markers_are_the_genes_that_are_shown(self, full, tmp_path):
        full = with_genes(full, np.ones((full.n_obs, 6), np.float32))
        names = np.array([("G5", "G1"), ("G0", "G5"), ("gone", "G2")], dtype=[("0", "O"), ("1", "O")])
        full.uns["rank_genes_groups"] = {"names": names}
        columns = Page(write_report(full, tmp_path / "r.html")).json("points")["columns"]
        assert [c["name"] for c in columns if c["group"] == "Genes"] == ["G5", "G1", "G0", "G2"]

    def test_barcodes_and_constants_are_not_offered(self, full, tmp_path):
        full.obs["barcode"] = [f"cell {i}" for i in range(full.n_obs)]
        full.obs["constant"] = "one"
        big = anndata.concat([full, full, full], index_unique="-")
        big.obs["barcode"] = [f"cell {i}" for i in range(big.n_obs)]
        names = [c["name"] for c in Page(write_report(big, tmp_path / "r.html")).json("points")["columns"]]
        assert not {"barcode", "constant"} & set(names)
        assert "quality" in names

    def test_columns_of_every_kind_can_be_shown(self, full, tmp_path):
        n = full.n_obs
        odd = {
            "nullable": pd.array([None, *range(1, n)], "Int64"),
            "truth": pd.array([None, True] * (n // 2), "boolean"),
            "plain truth": np.arange(n) % 2 == 0,
            "few": np.arange(n) % 4,
            "text": pd.array([None, "a", "b"] * (n // 3), "string"),
            "mixed": [1, "one", None] * (n // 3),
            "time": pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(n) % 3, "D"),
            "complete": pd.Categorical(np.arange(n) % 3 * 1.5),
            "half": np.where(np.arange(n) % 2, np.nan, np.arange(n)).astype(np.float16),
            7: np.arange(n, dtype=np.uint64) * 2**50,
            "empty": np.nan,
        }
        full.obs = full.obs.assign(**{str(k): np.asarray(v, object) if k == "mixed" else v for k, v in odd.items()})
        columns = {c["name"]: c for c in Page(write_report(full, tmp_path / "r.html")).json("points")["columns"]}
        assert columns["nullable"]["missing"] == 1
        assert columns["plain truth"]["levels"] == ["False", "True"]
        # One value and gaps: nothing to tell apart.
        assert "truth" not in columns
        assert columns["few"]["levels"] == list("0123")
        assert columns["text"]["levels"] == ["a", "b"]
        assert columns["mixed"]["levels"] == ["1", "one"]
        assert columns["complete"]["levels"] == ["0.0", "1.5", "3.0"]
        assert columns["half"]["missing"] == n // 2
        assert columns["7"]["high"] > 1e16
        assert len(columns["time"]["levels"]) == 3
        assert "empty" not in columns

    def test_genes_without_values_are_refused(self, full, tmp_path):
        full = anndata.AnnData(obs=full.obs, var=pd.DataFrame(index=["G1"]), obsm=dict(full.obsm))
        with pytest.raises(InputError, match="no X"):
            write_report(full, tmp_path / "r.html", genes=["G1"])

    @pytest.mark.parametrize(("argument", "near"), [({"color_by": ["batsch"]}, "batch"), ({"genes": ["G_1"]}, "G1")])
    def test_a_wrong_name_is_told_before_any_work(self, full, tmp_path, argument, near):
        full = with_genes(full, np.ones((full.n_obs, 2), np.float32))
        with pytest.raises(MissingKeyError, match=f"did you mean '{near}'"):
            write_report(full, tmp_path / "r.html", **argument)
        assert not list(tmp_path.iterdir())


class TestSize:
    @pytest.mark.parametrize(("n_columns", "least"), first(1, [(60, 30_000), (200, 20_000)], names=2))
    def test_many_cells_and_columns_fit_and_the_page_says_what_it_left_out(self, tmp_path, n_columns, least):
        gen = np.random.default_rng(0)
        n = 300_000
        obs = {f"number {i}": gen.random(n, np.float32) for i in range(n_columns // 2)}
        levels = [f"é{j}" * 30 for j in range(20)]
        for i in range(n_columns // 2):
            obs[f"level {i}"] = pd.Categorical.from_codes(gen.integers(0, 20, n), levels)
        frame = pd.DataFrame(obs, index=pd.RangeIndex(n).astype(str))
        umap = gen.normal(size=(n, 2)).astype(np.float32)
        adata = anndata.AnnData(obs=frame, obsm={"X_umap": umap, "X_umap_uncorrected": umap[::-1].copy()})
        path = write_report(adata, tmp_path / "r.html")
        assert path.stat().st_size < 10_000_000
        page = Page(path)
        points = page.json("points")
        assert least <= points["n"] < 100_001
        assert f"a random sample of {points['n']:,} of the 300,000 cells" in page.shown
        assert len(decoded(points["columns"][0]["codes"])) == points["n"]
        assert ("No room was left to colour by" in page.shown) == (n_columns == 200)
        # Nothing is left out that would have fitted.
        assert path.stat().st_size > 9_000_000

    def test_a_sample_is_random_and_of_the_size_asked_for(self, full, tmp_path):
        page = Page(write_report(full, tmp_path / "r.html", max_points=50))
        assert page.json("points")["n"] == 50
        batch = page.json("points")["columns"][0]
        # Legends count all cells.
        assert sum(batch["counts"]) == full.n_obs
        assert len(set(decoded(batch["codes"]).tolist())) == 3
        assert "50 of the 180 cells" in page.shown

    def test_a_thousand_batches_stay_small(self, full, tmp_path):
        gen = np.random.default_rng(0)
        big = anndata.concat([full] * 20, index_unique="-")
        big.uns = full.uns
        big.obs["batch"] = pd.Categorical([f"pool {i % 1000}" for i in range(big.n_obs)])
        big.uns["harmonax"]["cluster_mass"] = gen.random((1000, 100))
        big.uns["harmonax"]["levels"] = {
            "batch_key": np.array(["batch"] * 1000, object),
            "level": np.array([f"pool {i}" for i in range(1000)], object),
            "n_cells": np.full(1000, 3),
        }
        path = write_report(big, tmp_path / "r.html")
        assert path.stat().st_size < 7_000_000
        assert "Only the largest 60 of 1,000 batches are shown." in Page(path).shown


class TestParts:
    def test_without_anything_every_section_says_how_to_make_it(self, tmp_path):
        bare = anndata.AnnData(obs=pd.DataFrame(index=[str(i) for i in range(20)]))
        page = Page(write_report(bare, tmp_path / "r.html"))
        for command in ("harmonax run", "harmonax integrate", "tl.check", "tl.evaluate", "tl.diagnose"):
            assert command in page.shown
        assert "Nothing was measured" in page.shown

    @pytest.mark.parametrize("key", ["", "_check", "_evaluation", "_diagnosis", "_workflow"])
    @pytest.mark.parametrize("instead", [None, {}, 3, {"findings": {}, "scores": 1, "numbers": {}, "steps": []}])
    def test_a_part_that_is_missing_or_of_another_kind_harms_no_other(self, full, tmp_path, key, instead):
        if instead is None:
            del full.uns["harmonax" + key]
        else:
            full.uns["harmonax" + key] = instead
        shown = Page(write_report(full, tmp_path / "r.html")).shown
        assert all(
            f"{word} " in shown for word in ("Can this correction be trusted?", "Metrics", "How to reproduce it")
        )

    def test_a_verdict_from_the_future_is_shown_as_what_it_is(self, full, tmp_path):
        for key in ("", "_check", "_diagnosis"):
            full.uns["harmonax" + key]["verdict"] = "transcended"
        full.uns["harmonax_evaluation"]["scores"]["kind"] = "something new"
        with pytest.warns(HarmonaxWarning, match="the part 'Verdict' of the report cannot be made"):
            shown = Page(write_report(full, tmp_path / "r.html")).shown
        assert "can be trusted" not in shown
        assert "This part cannot be shown" in shown
        assert "Metrics" in shown

    @pytest.mark.thorough
    def test_wrong_leaves_are_said_and_do_no_harm(self, full, tmp_path):
        gen = np.random.default_rng(0)
        full.uns["rank_genes_groups"] = ranked(["G1", "G2", "G3"])
        full.uns["harmonax_sweep"] = {"sweep": [1]}
        places = list(leaves(full.uns))
        assert len(places) > 60
        wrong = [None, 3, -np.inf, "text", b"bytes", [], {}, np.array(3), np.zeros((2, 2)), [["a"], {}], pd.DataFrame()]
        for place in gen.permutation(len(places))[:40]:
            copy = full.copy()
            *above, name = places[place]
            part = copy.uns
            for step in above:
                part = part[step]
            part[name] = wrong[int(gen.integers(len(wrong)))]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HarmonaxWarning)
                shown = Page(write_report(copy, tmp_path / "r.html")).shown
            assert "How to reproduce it" in shown or "This part cannot be shown" in shown, places[place]

    def test_a_part_that_cannot_be_made_says_so(self, full, tmp_path, monkeypatch):
        def broken(parts, figures):
            figures.add({"layout": {}}, "nothing")
            raise KeyError("<b>gone</b>")

        monkeypatch.setattr(write, "SECTIONS", (*write.SECTIONS[:3], broken, *write.SECTIONS[3:]))
        with pytest.warns(HarmonaxWarning, match="the part 'Broken' of the report cannot be made"):
            page = Page(write_report(full, tmp_path / "r.html"))
        assert "This part cannot be shown" in page.shown
        assert "KeyError: '<b>gone</b>'" in page.shown
        assert {"layout": {}} not in page.json("figures")

    def test_without_umaps_the_components_are_drawn_and_it_says_so(self, full, tmp_path):
        del full.obsm["X_umap"], full.obsm["X_umap_uncorrected"]
        page = Page(write_report(full, tmp_path / "r.html"))
        assert [m["key"] for m in page.json("points")["maps"]] == ["X_pca", "X_pca_harmony"]
        assert "the first two components of X_pca_harmony" in page.shown

    def test_one_map_is_drawn_where_there_is_one(self, tmp_path):
        only = anndata.AnnData(obs=pd.DataFrame(index=["a", "b"]), obsm={"X_umap": np.eye(2)})
        page = Page(write_report(only, tmp_path / "r.html"))
        assert len(page.json("points")["maps"]) == 1
        assert "Only one of the two maps" in page.shown

    @pytest.mark.parametrize(
        ("status", "change", "said"),
        [
            ("converged", 5e-5, "because the objective had settled: in the last round it fell by 5.00e-05"),
            ("max_iterations", -0.02, "while the objective was still moving: in the last round it rose by 0.020"),
            ("single_batch", float("nan"), "there was nothing to correct"),
        ],
    )
    def test_why_it_stopped_is_written_in_words(self, full, tmp_path, status, change, said):
        full.uns["harmonax"] |= {"status": status, "last_change": change}
        assert said in Page(write_report(full, tmp_path / "r.html")).shown

    def test_rounds_end_where_their_passes_end(self, full, tmp_path):
        figures = Page(write_report(full, tmp_path / "r.html")).json("figures")
        lines = next(f for f in figures if f["data"][0]["type"] == "scatter")
        passes = full.uns["harmonax"]["history"]["passes"]
        assert len(lines["data"][0]["x"]) == sum(passes)
        assert [s["x0"] for s in lines["layout"]["shapes"]] == [e + 0.5 for e in np.cumsum(passes)[:-1]]


class TestHeatmaps:
    def test_expected_counts_have_the_same_sums_and_independence_is_one(self):
        counts = pd.DataFrame(np.random.default_rng(0).integers(1, 50, (4, 6)))
        expected, ratio = observed_to_expected(counts)
        np.testing.assert_allclose(expected.sum(axis=0), counts.sum(axis=0))
        np.testing.assert_allclose(expected.sum(axis=1), counts.sum(axis=1))
        np.testing.assert_allclose((ratio * expected).to_numpy(), counts.to_numpy())
        np.testing.assert_allclose(observed_to_expected(expected)[1], 1)

    def test_the_page_shows_the_crosstab_of_batches_and_clusters(self, full, tmp_path):
        figures = Page(write_report(full, tmp_path / "r.html")).json("figures")
        hard, soft = (f["data"][0] for f in figures if f["data"][0]["type"] == "heatmap")
        counts = pd.crosstab(full.obs["batch"], full.obs["leiden"]).to_numpy()
        truth = counts * counts.sum() / np.outer(counts.sum(1), counts.sum(0))
        np.testing.assert_allclose(2 ** np.array(hard["z"]), truth, atol=2e-3)
        mass = full.uns["harmonax"]["cluster_mass"]
        assert sorted(np.shape(soft["z"])) == sorted(mass.shape)
        # Columns are sorted by size: the first is the largest cluster.
        first = mass[:, mass.sum(axis=0).argmax()]
        ratio = first * mass.sum() / (mass.sum(axis=1) * first.sum())
        np.testing.assert_allclose(2 ** np.array(soft["z"])[:, 0], ratio, atol=2e-3)


class TestReproduce:
    @pytest.mark.parametrize(
        "given", [{}, {"theta": [1.0], "batch_prune_threshold": None}, {"flavor": "harmony1", "tau": 5}]
    )
    def test_the_code_and_the_command_make_the_same_embedding(self, adata, tmp_path, given):
        key = 'it\'s a "batch"'
        adata.obs[key] = adata.obs["batch"]
        harmonax.pp.harmony_integrate(adata, key, rng=3, max_iter_harmony=4, **given)
        truth = np.asarray(adata.obsm["X_pca_harmony"], np.float32)
        adata.write_h5ad(tmp_path / "in.h5ad")
        page = Page(write_report(tmp_path / "in.h5ad", tmp_path / "r.html"))
        code, command = (html.unescape(c) for c in re.findall(r"<pre[^>]*><code>(.*?)</code>", page.text, re.S))
        space: dict = {}
        exec(code.replace('"IN.h5ad"', repr(str(tmp_path / "in.h5ad"))), space)
        np.testing.assert_array_equal(np.asarray(space["adata"].obsm["X_pca_harmony"], np.float32), truth)
        words = shlex.split(
            command.replace("\\\n", "")
            .replace("IN.h5ad", str(tmp_path / "in.h5ad"))
            .replace("OUT.h5ad", str(tmp_path / "o.h5ad"))
        )
        from harmonax.cli import run

        assert run([*words[1:], "--quiet"]) == 0
        np.testing.assert_allclose(anndata.read_h5ad(tmp_path / "o.h5ad").obsm["X_pca_harmony"], truth, atol=1e-6)


def ranked(genes, n_groups=3):
    """What scanpy stores of ranked genes: the same in each cluster, for what is shown of them."""
    groups = [str(i) for i in range(n_groups)]
    names = np.array([tuple([gene] * n_groups) for gene in genes], dtype=[(g, "O") for g in groups])
    scores = np.array([tuple([5.0 - i] * n_groups) for i in range(len(genes))], dtype=[(g, "f4") for g in groups])
    return {"names": names, "scores": scores, "pvals_adj": scores, "params": {"groupby": "leiden"}}


class TestSections:
    def test_the_first_screen_names_the_run(self, full, tmp_path):
        full.uns["harmonax_workflow"] |= {"inputs": np.array(["in/a.h5ad"], object), "started": "2026-01-02 03:04 UTC"}
        shown = Page(write_report(full, tmp_path / "r.html")).shown
        head = shown[: shown.index("Can this correction be trusted?")]
        for word in ("Input a.h5ad", "Date 2026-01-02 03:04 UTC", "Command harmonax run counts.h5ad -o out"):
            assert word in head

    def test_markers_are_a_table_and_a_dot_plot_of_what_x_holds(self, full, tmp_path):
        X = np.random.default_rng(0).poisson(0.5, (full.n_obs, 4)).astype(np.float32)
        full = with_genes(full, X)
        full.uns["rank_genes_groups"] = ranked(["G2", "G0"])
        page = Page(write_report(full, tmp_path / "r.html"))
        assert "Cluster Rank Gene Score Adjusted p 0 1 G2" in page.shown
        dots = next(
            f["data"][0]
            for f in page.json("figures")
            if "markers" in f["data"][0].get("mode", "") and "colorscale" in f["data"][0]["marker"]
        )
        held = X[(full.obs["leiden"] == "1").to_numpy()]
        # The second row of dots is that of cluster 1, the first column that of G2.
        assert (
            f"in {(held[:, 2] > 0).mean():.0%} of the cells<br>mean {number(held[:, 2].mean())}" in dots["hovertext"][2]
        )
        assert dots["y"][2] == 1

    def test_types_are_counted_in_batches_and_in_clusters(self, full, tmp_path):
        page = Page(write_report(full, tmp_path / "r.html"))
        first = str(full.obs["group"].astype(str).min())
        counts = pd.crosstab(full.obs["group"], full.obs["batch"]).loc[first]
        assert " ".join([first, *map(str, counts), str(counts.sum())]) in page.shown
        assert "Cells of each cluster (leiden) in each type (group)" in page.shown

    def test_quality_control_shows_its_thresholds(self, full, tmp_path):
        rows = [("batch", "a", "n_genes_by_counts", when, 9, 1.0, 2.0, 3.0, 4.0, 5.0) for when in ("before", "after")]
        columns = ["batch_key", "level", "measure", "when", "n_cells", "q05", "q25", "q50", "q75", "q95"]
        full.uns["harmonax_workflow"]["quality"] = table(rows, columns)
        page = Page(write_report(full, tmp_path / "r.html"))
        boxes = next(f for f in page.json("figures") if f["data"][0]["type"] == "box")
        assert [(trace["name"], trace["median"]) for trace in boxes["data"]] == [("before", [3.0]), ("after", [3.0])]
        assert [shape["x0"] for shape in boxes["layout"]["shapes"]] == [200.0]
        assert "a 100 90 10" in page.shown

    def test_what_quality_control_took_is_part_of_the_verdict_and_of_its_section(self, full, tmp_path):
        full.uns["harmonax_check"]["findings"] = to_table([Finding("note", Level.NOTE, "a note")])
        full.uns["harmonax_workflow"]["types"] = table(
            [("batch", "a", "T", 40, 40), ("batch", "a", "B", 30, 0)],
            ["batch_key", "level", "type", "n_before", "n_after"],
        )
        shown = Page(write_report(full, tmp_path / "r.html")).shown
        assert "Use this correction with care." in shown
        assert "a B 30 0 0% a T 40 40 100%" in shown

    def test_a_sweep_is_drawn_and_listed_and_its_absence_is_no_section(self, full, tmp_path):
        assert "Which parameters?" not in Page(write_report(full, tmp_path / "r.html")).shown
        rows = [
            (1.0, 0.3, 0.9, "do_not_trust", False),
            (2.0, 0.5, 0.8, "trust", True),
            (4.0, 0.4, 0.7, HOSTILE[0], False),
        ]
        full.uns["harmonax"]["sweep"] = table(rows, ["theta", "mixing", "kept", "verdict", "chosen"])
        page = Page(write_report(full, tmp_path / "r.html"))
        assert "Chosen of 3 runs: theta 2" in page.shown
        line, others, best, chosen = next(f for f in page.json("figures") if len(f["data"]) == 4)["data"]
        assert (line["x"], others["x"], best["y"], chosen["x"]) == ([0.3, 0.5], [0.4], [0.9, 0.8], [0.5])
        assert "do not trust" in page.shown
        assert HOSTILE[0] in page.shown
        assert len(page.scripts) == 7
        assert "more of the neighbours within batches is kept" in page.shown
        # What the score is made of, where it is there.
        full.uns["harmonax"]["sweep"]["structure"] = [0.8, 0.7, 0.6]
        page = Page(write_report(full, tmp_path / "r.html"))
        figure = next(f for f in page.json("figures") if len(f["data"]) == 4)
        assert figure["data"][2]["y"] == [0.8, 0.7]
        assert figure["layout"]["yaxis"]["title"]["text"] == "structure (more is better)"
        assert "more structure within batches is kept" in page.shown

    @pytest.mark.parametrize("stored", [3, "x", [], {"runs": 1}, {"theta": 2.0}, {"chosen": [1]}])
    def test_a_sweep_of_another_kind_does_no_harm(self, full, tmp_path, stored):
        full.uns["harmonax"]["sweep"] = stored
        assert "Can this correction be trusted?" in Page(write_report(full, tmp_path / "r.html")).shown

    def test_a_correction_by_training_shows_its_losses_and_how_to_repeat_it(self, full, tmp_path):
        del full.uns["harmonax"], full.uns["harmonax_diagnosis"]
        steps = [("diagnose", "skipped", "X_mmd has coordinates of its own", 0.0, 0)]
        names = ["step", "status", "note", "seconds", "peak_memory_bytes"]
        full.uns["harmonax_workflow"] |= {"options": json.dumps({"corrector": "mmd"}), "steps": table(steps, names)}
        full.uns["harmonax_mmd"] = {
            "keys": np.array(["batch"], object),
            "batch_keys": np.array(["batch"], object),
            "seed": 3,
        }
        full.uns["harmonax_mmd"] |= {
            "parameters": {"steps": 1000},
            "n_genes": 9,
            "status": "completed",
            "adjusted_basis": "X_mmd",
        }
        full.uns["harmonax_mmd"]["history"] = {"total": np.arange(1000.0), "latent_mmd": np.ones(1000)}
        page = Page(write_report(full, tmp_path / "r.html"))
        assert "not Harmony's but MMD autoencoder, 1000 steps on 9 genes" in page.shown
        assert "Why: X_mmd has coordinates of its own." in page.shown
        assert "corrected by MMD, which does not use soft clusters" in page.shown
        assert "harmonax.pp.mmd_integrate( adata, 'batch', steps=1000, adjusted_basis='X_mmd', rng=3, )" in page.shown
        losses = [f["data"][0] for f in page.json("figures") if f["data"][0].get("mode") == "lines"]
        assert [(len(loss["x"]), loss["x"][-1]) for loss in losses] == [(300, 1000), (300, 1000)]

    def test_a_level_has_the_colour_that_pl_gives_it(self, full, tmp_path):
        from harmonax.pl.colours import categories

        full.obs["kind"] = pd.Categorical(np.resize([*"abcdefghijkl", "Unknown"], full.n_obs))
        full.uns["batch_colors"] = np.array(["#ff0000", "#00ff00", "#0000ff"], object)
        points = Page(write_report(full, tmp_path / "r.html")).json("points")
        columns = {c["name"]: c for c in points["columns"]}
        for name in ("kind", "batch"):
            truth = categories(full.obs[name], full.uns.get(f"{name}_colors"))
            assert dict(zip(columns[name]["levels"], columns[name]["colours"], strict=True)) == dict(
                zip(truth.names, truth.colours, strict=True)
            )
        assert columns["kind"]["unlabelled"] == [columns["kind"]["levels"].index("Unknown")]
        assert columns["batch"]["colours"] == ["#ff0000", "#00ff00", "#0000ff"]

    def test_barcodes_are_those_of_the_cells_shown(self, full, tmp_path):
        points = Page(write_report(full, tmp_path / "r.html", max_points=50)).json("points")
        names = json.loads(zlib.decompress(base64.b64decode(points["names"])))
        batch = next(c for c in points["columns"] if c["name"] == "batch")
        shown = np.array(batch["levels"])[decoded(batch["codes"])]
        assert len(names) == 50
        assert full.obs.loc[names, "batch"].astype(str).tolist() == shown.tolist()


class TestRefusals:
    def test_what_cannot_be_reported_is_refused_in_words(self, full, tmp_path):
        for source, path, said in (
            (full, tmp_path / "r.pdf", "end in .html"),
            (np.eye(3), tmp_path / "r.html", "not from a ndarray"),
            (tmp_path / "none.h5ad", tmp_path / "r.html", "no such file"),
            (tmp_path / "x.csv", tmp_path / "r.html", "told by the end of the name"),
        ):
            with pytest.raises(InputError, match=said):
                write_report(source, path)
        with pytest.raises(InputError, match="max_points"):
            write_report(full, tmp_path / "r.html", max_points=0)
        assert not list(tmp_path.iterdir())

    def test_a_page_that_is_there_stays_if_asked(self, full, tmp_path):
        (tmp_path / "r.html").write_text("mine")
        with pytest.raises(OutputError, match="exists already"):
            write_report(full, tmp_path / "r.html", overwrite=False)
        assert (tmp_path / "r.html").read_text() == "mine"

    def test_a_damaged_file_is_told_by_name(self, tmp_path):
        (tmp_path / "bad.h5ad").write_bytes(b"no hdf5")
        with pytest.raises(HarmonaxError, match=r"bad\.h5ad is not a readable"):
            write_report(tmp_path / "bad.h5ad", tmp_path / "r.html")


class TestCommand:
    def test_writes_a_page_and_takes_the_options(self, full, tmp_path):
        full = with_genes(full, np.ones((full.n_obs, 2), np.float32))
        anndata.settings.allow_write_nullable_strings = True
        full.write_h5ad(tmp_path / "in.h5ad")
        out = tmp_path / "r.html"
        words = [
            str(tmp_path / "in.h5ad"),
            "-o",
            str(out),
            "--color-by",
            "donor,quality",
            "--genes",
            "G1",
            "--title",
            "T<i>",
        ]
        result = CliRunner().invoke(report_command, words, catch_exceptions=False)
        assert result.exit_code == 0
        page = Page(out)
        assert "T<i>" in page.shown
        assert [c["name"] for c in page.json("points")["columns"]][:2] == ["donor", "quality"]
        with pytest.raises(OutputError, match="--overwrite"):
            CliRunner().invoke(report_command, words, catch_exceptions=False)
        assert CliRunner().invoke(report_command, [*words, "--overwrite"], catch_exceptions=False).exit_code == 0
        assert CliRunner().invoke(report_command, [*words, "--quiet", "--verbose"]).exit_code == 2


class TestMaps:
    """The maps alone, for notebooks."""

    def test_they_are_small_and_hold_the_cells_asked_for(self, adata):
        shown = maps(corrected(adata), max_points=50, height=300)
        assert repr(shown) == "Maps of 50 cells: a notebook shows them"
        assert len(shown.html) < 200_000
        assert "height: 300px" in shown._repr_html_()
        assert '<iframe title="Maps before and after correction" sandbox="allow-scripts allow-downloads"' in (
            shown._repr_html_()
        )

    def test_many_cells_are_a_sample_of_bounded_size(self):
        Z = np.random.default_rng(0).normal(size=(400_000, 2)).astype(np.float32)
        shown = maps(anndata.AnnData(obsm={"X_pca": Z, "X_pca_harmony": Z}), max_points=400_000)
        assert len(shown.html) < 5_000_000
        assert "The maps show a random sample of" in shown.html

    def test_without_an_embedding_they_cannot_be_made(self):
        with pytest.raises(MissingKeyError, match="has no embedding to draw"):
            maps(anndata.AnnData(np.ones((5, 2), np.float32)))
