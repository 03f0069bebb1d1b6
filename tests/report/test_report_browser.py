"""The report in a browser: it renders, its controls work, names do nothing, and nothing is fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from test_report import HOSTILE, corrected, with_genes

import harmonax
from harmonax.report import maps, write_report

pytest.importorskip("plotly")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    # The driver's own pipes.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open the report of an AnnData; when the test ends, nothing may have gone wrong or been fetched."""
    wrong, pages = [], []

    def open_report(adata, width=1280, height=900, **options):
        path = write_report(adata, tmp_path / "report.html", **options)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(300_000)
        pages.append(page)
        # The one about reading pixels is of these tests' own making.
        told = lambda m: wrong.append(f"console {m.type}: {m.text}") if "willReadFrequently" not in m.text else None  # noqa: E731
        page.on("console", told)
        page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
        page.on("dialog", lambda d: (wrong.append(f"dialog: {d.message}"), d.dismiss()))
        page.on("request", lambda r: wrong.append(f"request: {r.url}") if r.url != path.as_uri() else None)
        page.goto(path.as_uri())
        until(page, "document.querySelectorAll('.main-svg').length > 0")
        return page

    yield open_report
    for page in pages:
        page.close()
    assert not wrong, wrong


@pytest.fixture
def full(adata):
    full = corrected(adata)
    return with_genes(full, np.random.default_rng(0).poisson(1.0, (full.n_obs, 4)).astype(np.float32))


def until(page, condition):
    """Wait for something to be so; Playwright's own way is one that the page's policy forbids."""
    for _ in range(6000):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never so: {condition}")


def pictures(page):
    """What both maps show, as text to compare."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.eval_on_selector_all(".map canvas:first-child", "all => all.map(c => c.toDataURL())")


def colours(page):
    """Number of pixels of each colour of the first map, the most frequent first, white left out."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate(
        """() => { const c = document.querySelector(".map canvas"), seen = {};
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255) {
          const k = [d[i], d[i + 1], d[i + 2]].join(); seen[k] = (seen[k] || 0) + 1; }
        return seen; }"""
    )


def focus(page, selector):
    """Reach an element with the Tab key alone."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("s => document.activeElement === document.querySelector(s)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


def test_it_renders_every_figure_and_both_maps(full, opened):
    page = opened(full)
    assert page.locator(".chart .main-svg").count() >= page.locator(".chart").count() > 5
    assert page.locator(".map canvas").count() == 4
    assert all(len(picture) > 5000 for picture in pictures(page))
    assert page.locator("h1").inner_text() == "Batch correction"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_colours_are_chosen_with_the_keyboard_and_both_maps_change(full, opened):
    page = opened(full)
    before = pictures(page)
    focus(page, "#colour")
    page.keyboard.press("ArrowDown")
    after = pictures(page)
    assert all(a != b for a, b in zip(before, after, strict=True))
    chosen = page.locator("#colour option:checked").inner_text()
    assert chosen != "batch"
    assert f"Coloured by {chosen}." in page.locator("#map-status").inner_text()


def test_every_colouring_can_be_drawn(full, opened):
    page = opened(full)
    seen = set()
    for i in range(page.locator("#colour option").count()):
        page.select_option("#colour", str(i))
        seen.add(pictures(page)[0])
        assert page.locator("#legend fieldset").count() == 1
    assert len(seen) == page.locator("#colour option").count()


def test_levels_are_hidden_shown_and_highlighted_with_the_keyboard(full, opened):
    page = opened(full)
    page.evaluate(
        "() => { const o = document.querySelector('#opacity'); o.value = 1; o.dispatchEvent(new Event('input')); }"
    )
    # Okabe and Ito's first three.
    levels = ["0,114,178", "230,159,0", "0,158,115"]
    assert set(levels) <= set(colours(page))
    focus(page, "#legend input")
    page.keyboard.press("Space")
    assert levels[0] not in colours(page)
    assert "1 of 3 levels hidden" in page.locator("#map-status").inner_text()
    page.keyboard.press("Space")
    assert levels[0] in colours(page)
    page.locator("#highlight").focus()
    page.keyboard.press("ArrowDown")
    assert set(levels) & set(colours(page)) == {levels[0]}
    page.keyboard.press("ArrowUp")
    page.get_by_role("button", name="Hide all").press("Enter")
    assert not colours(page)
    page.get_by_role("button", name="Show all").press("Enter")
    assert set(levels) <= set(colours(page))


def test_cells_selected_in_one_map_are_selected_in_the_other(full, opened):
    page = opened(full)
    box = page.locator(".map-box").first
    box.scroll_into_view_if_needed()
    before, at = pictures(page), box.bounding_box()
    page.mouse.move(at["x"] + 5, at["y"] + 5)
    page.mouse.down()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] - 5, steps=3)
    page.mouse.up()
    after = pictures(page)
    assert all(a != b for a, b in zip(before, after, strict=True))
    count = int(page.locator("#map-status").inner_text().split(" cells selected")[0].split()[-1])
    left = full.obsm["X_umap_uncorrected"][:, 0]
    assert abs(count - (left < (left.min() + left.max()) / 2).sum()) <= 3
    page.get_by_role("button", name="Zoom to selection").click()
    assert all(a != b for a, b in zip(after, pictures(page), strict=True))
    page.get_by_role("button", name="Clear selection").click()
    page.get_by_role("button", name="Whole map").click()
    assert pictures(page) == before


def test_a_map_moves_with_keys_and_tells_of_the_cell_pointed_at(full, opened):
    page = opened(full)
    before = pictures(page)
    focus(page, ".map-box")
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    assert pictures(page)[0] != before[0]
    page.keyboard.press("0")
    assert pictures(page) == before
    page.locator(".map-box").first.scroll_into_view_if_needed()
    box = page.locator(".map-box").first.bounding_box()
    truth = full.obsm["X_umap_uncorrected"]
    width = np.ptp(truth, axis=0).max()
    middle = (truth.min(axis=0) + truth.max(axis=0)) / 2
    cell = int(np.abs(truth - middle).sum(axis=1).argmin())
    x, y = (truth[cell] - middle) / width / 1.06 * box["width"]
    page.mouse.move(box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 - y)
    assert page.locator(".tip").first.inner_text() == f"batch: {full.obs['batch'].iloc[cell]}"


def test_a_button_shows_the_neighbours_kept_on_the_maps(full, opened):
    page = opened(full)
    before = pictures(page)
    page.get_by_role("button", name="Show neighbours kept").press("Enter")
    assert page.locator("#colour option:checked").inner_text() == "harmonax_neighbors_kept"
    assert all(a != b for a, b in zip(before, pictures(page), strict=True))
    assert page.evaluate("document.activeElement.id") == "colour"


def test_the_code_is_copied(full, opened):
    page = opened(full)
    page.evaluate(
        "() => { window.copied = []; document.addEventListener('copy', () => copied.push(String(getSelection()))); }"
    )
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { copied.push(text); }; }")
    button = page.locator("[data-copy]").first
    button.press("Enter")
    until(page, "copied.length > 0")
    assert page.evaluate("copied[0]") == page.locator(".code code").first.text_content()
    assert button.inner_text() == "Copied"


def test_hostile_names_are_shown_and_do_nothing(full, opened):
    full.obs["batch"] = pd.Categorical(full.obs["batch"].astype(str).map(dict(zip("abc", HOSTILE, strict=False))))
    full.obs["leiden"] = pd.Categorical(full.obs["leiden"].astype(str).map(dict(zip("012", HOSTILE[3:], strict=True))))
    full.var_names = [*HOSTILE[:3], "<img src=x onerror=alert(3)>"]
    key = "<b>batch</b>&amp;<script>alert(2)</script>"
    full.obs[key] = full.obs["batch"]
    harmonax.pp.harmony_integrate(full, key, rng=0, max_iter_harmony=30)
    full.uns["harmonax_check"]["components"]["batch_key"] = key
    page = opened(full, title=HOSTILE[1], genes=list(full.var_names))
    assert page.locator("h1").inner_text() == HOSTILE[1]
    for i in range(page.locator("#colour option").count()):
        page.select_option("#colour", str(i))
    names = page.eval_on_selector_all("#colour option", "all => all.map(o => o.textContent)")
    assert key in names
    page.select_option("#colour", str(names.index(key)))
    assert HOSTILE[0] in page.eval_on_selector_all("#legend .name", "all => all.map(o => o.textContent)")
    # Plotly would have made <b> bold and <a> a link.
    shown = " ".join(page.eval_on_selector_all(".chart text", "all => all.map(t => t.textContent)"))
    assert key in shown
    assert HOSTILE[0] in shown
    assert not page.locator(".chart svg a").count()
    page.locator(".chart").first.hover()


def test_on_a_narrow_screen_nothing_hangs_over_the_side(full, opened):
    page = opened(full, width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [box.bounding_box() for box in page.locator(".map-box").all()]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    assert all(box["width"] > 250 for box in boxes)


def test_on_paper_all_is_there_but_the_controls(full, opened, tmp_path):
    page = opened(full)
    page.set_viewport_size({"width": 690, "height": 900})
    page.emulate_media(media="print")
    until(page, "document.querySelectorAll('details:not([open])').length === 0")
    assert not page.locator("#map-tools").is_visible()
    assert not page.locator("nav").is_visible()
    assert not page.locator("[data-copy]").first.is_visible()
    assert page.locator("#legend .name").first.is_visible()
    assert page.locator("text=seed").first.is_visible()
    wide = "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert page.eval_on_selector_all(".chart .main-svg, table, pre, canvas", wide) == 0
    page.emulate_media(media="screen")
    until(page, "document.querySelectorAll('details[open]').length === 0")
    assert len(page.pdf(format="A4")) > 20_000


def test_every_control_has_a_name_and_the_first_tab_skips_to_the_report(full, opened):
    page = opened(full)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for control in page.locator("select, input, button").all():
        assert control.evaluate("e => (e.labels?.[0] ?? e).textContent.trim() || e.ariaLabel")
    assert page.locator("[role=img]:not([aria-label])").count() == 0


def test_with_nothing_in_the_data_it_still_renders_without_errors(browser, tmp_path):
    bare = anndata.AnnData(obs=pd.DataFrame(index=["a", "b"]), obsm={"X_umap": np.eye(2)})
    wrong = []
    page = browser.new_page()
    page.on("console", lambda m: wrong.append(m.text))
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.goto(write_report(bare, tmp_path / "r.html").as_uri())
    assert page.locator(".map canvas").count() == 2
    assert len(pictures(page)[0]) > 500
    page.close()
    assert not wrong


def test_a_hundred_thousand_cells_are_drawn_with_the_next_frame(opened, full):
    n = 100_000
    gen = np.random.default_rng(0)
    obs = pd.DataFrame({"batch": pd.Categorical.from_codes(gen.integers(0, 30, n), [f"b{i}" for i in range(30)])})
    obs["number"] = gen.random(n)
    obs.index = obs.index.astype(str)
    umap = gen.normal(size=(n, 2)).astype(np.float32)
    big = anndata.AnnData(obs=obs, obsm={"X_umap": umap, "X_umap_uncorrected": umap[::-1].copy()}, uns=dict(full.uns))
    page = opened(big)
    before = pictures(page)
    page.evaluate(
        """() => { const list = document.querySelector("#colour");
        list.value = "1"; list.dispatchEvent(new Event("change")); }"""
    )
    # `pictures` waits for two frames, whatever they take.
    assert all(a != b for a, b in zip(before, pictures(page), strict=True))


def downloaded(page, press):
    """What a click gives to take away: its name and its bytes."""
    with page.expect_download() as waiting:
        press()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def selected(page):
    return int(page.locator("#map-status").inner_text().split(" cells selected")[0].split()[-1].replace(",", ""))


def test_a_lasso_selects_what_it_encloses_and_the_barcodes_can_be_saved(full, opened):
    page = opened(full)
    page.select_option("#tool", "lasso")
    box = page.locator(".map-box").first
    box.scroll_into_view_if_needed()
    at = box.bounding_box()
    # A triangle below the diagonal.
    page.mouse.move(at["x"] + 2, at["y"] + 2)
    page.mouse.down()
    for x, y in ((2, at["height"] - 2), (at["width"] - 2, at["height"] - 2)):
        page.mouse.move(at["x"] + x, at["y"] + y, steps=5)
    page.mouse.up()
    truth = full.obsm["X_umap_uncorrected"]
    middle, width = (truth.min(axis=0) + truth.max(axis=0)) / 2, np.ptp(truth, axis=0).max()
    x, y = ((truth - middle) / width).T
    assert abs(selected(page) - (y < -x).sum()) <= 4
    name, data = downloaded(page, page.get_by_role("button", name="Save barcodes").click)
    assert name == "barcodes.txt"
    barcodes = data.decode().split()
    within = dict(zip(full.obs_names, -x - y, strict=True))
    assert abs(len(set(barcodes)) - (y < -x).sum()) <= 4
    assert all(within[barcode] > -0.05 for barcode in barcodes)


def test_cells_are_selected_with_the_keyboard_alone(full, opened):
    page = opened(full)
    focus(page, ".map-box")
    page.keyboard.press("Enter")
    assert selected(page) == full.n_obs
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    assert 0 < selected(page) < full.n_obs
    page.keyboard.press("Escape")
    assert "selected" not in page.locator("#map-status").inner_text()
    page.select_option("#highlight", "0")
    page.get_by_role("button", name="Select highlighted").press("Enter")
    assert selected(page) == (full.obs["batch"] == "a").sum()


def test_a_map_is_switched_to_another_embedding_and_one_can_stand_alone(full, opened):
    full.obsm["X_other"] = np.random.default_rng(5).normal(size=(full.n_obs, 3))
    page = opened(full)
    lists = page.locator(".map-head select")
    before = pictures(page)
    names = lists.first.locator("option").all_inner_texts()
    assert names[:2] == ["Before correction (X_umap_uncorrected)", "After correction (X_umap)"]
    assert {"X_other", "X_pca", "X_pca_harmony"} <= set(names)
    lists.first.select_option(label="X_other")
    after = pictures(page)
    assert after[0] != before[0]
    assert after[1] == before[1]
    page.select_option("#layout", "1")
    assert page.locator(".map:visible").count() == 1


def test_a_gene_is_found_by_its_name_and_what_is_not_there_is_said(full, opened):
    page = opened(full, genes=["G1", "G2"])
    page.fill("#search", "g2")
    page.keyboard.press("Enter")
    assert page.locator("#colour option:checked").inner_text() == "G2"
    page.fill("#search", "ABC")
    page.keyboard.press("Enter")
    assert "Nothing in this page is called “ABC”. It holds 2 genes" in page.locator("#map-status").inner_text()


def test_a_map_is_saved_as_a_picture(full, opened):
    page = opened(full)
    name, data = downloaded(page, page.get_by_role("button", name="Save this map as PNG").first.click)
    assert name == "X_umap_uncorrected-batch.png"
    assert data.startswith(b"\x89PNG")
    assert len(data) > 5000


def test_islands_have_names_where_clusters_are_shown(full, opened):
    page = opened(full)
    assert page.locator(".map-box[data-names]").count() == 0
    options = page.eval_on_selector_all("#colour option", "all => all.map(o => o.textContent)")
    page.select_option("#colour", str(options.index("leiden")))
    named = pictures(page)
    assert page.locator(".map-box").first.get_attribute("data-names") in ("1", "2", "3")
    page.uncheck("#labels")
    assert all(a != b for a, b in zip(named, pictures(page), strict=True))


def test_cells_without_a_label_are_grey(full, opened):
    full.obs["group"] = pd.Categorical(np.where(np.arange(full.n_obs) % 3, "Unknown", "T cell"))
    page = opened(full, color_by=["group"])
    page.evaluate(
        "() => { const o = document.querySelector('#opacity'); o.value = 1; o.dispatchEvent(new Event('input')); }"
    )
    page.uncheck("#labels") if page.is_checked("#labels") else None
    assert {"187,187,187", "0,114,178"} <= set(colours(page))
    assert "120 cells without a label are grey" in page.locator("#legend").inner_text()


def test_a_table_is_sorted_with_the_keyboard_and_taken_away(full, opened):
    page = opened(full)
    part = page.locator("#diagnosis .wide").first
    head = part.get_by_role("button", name="Same-batch neighbours kept")
    first = part.locator("tbody th").all_inner_texts()
    head.press("Enter")
    assert part.locator("th[aria-sort=ascending]").count() == 1
    assert part.locator("tbody th").all_inner_texts() == ["B", "T"]
    head.press("Enter")
    assert part.locator("tbody th").all_inner_texts() == ["T", "B"]
    assert sorted(first) == ["B", "T"]
    name, data = downloaded(page, page.locator("#diagnosis .take").first.click)
    assert name.endswith(".tsv")
    lines = [line.split("\t") for line in data.decode().splitlines()]
    assert lines[0][0] == "Group"
    assert [line[0] for line in lines[1:]] == ["T", "B"]


def test_dark_colours_follow_the_system_and_the_button(full, browser, tmp_path):
    page = browser.new_page(color_scheme="dark")
    page.goto(write_report(full, tmp_path / "r.html").as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 26, 34)"
    chart = page.locator(".chart .main-svg").first
    assert "20, 26, 34" in chart.get_attribute("style")
    page.locator("#theme").press("Enter")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    until(page, "document.querySelector('.chart .main-svg').style.background.includes('255')")
    page.close()


@pytest.mark.thorough
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (820, "light"), (390, "dark")])
def test_axe_finds_no_violation(full, browser, tmp_path, width, scheme):
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    context = browser.new_context(bypass_csp=True, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(write_report(full, tmp_path / "r.html").as_uri())
    until(page, "document.querySelectorAll('.main-svg').length > 0")
    page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.evaluate((Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run()")
    context.close()
    assert len(found["passes"]) > 30
    assert not [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]]


def test_a_notebook_shows_the_maps_alone_and_names_do_nothing_to_it(full, browser, tmp_path):
    full.obs[HOSTILE[1]] = pd.Categorical(full.obs["batch"].astype(str).map(dict(zip("abc", HOSTILE, strict=False))))
    notebook, wrong = tmp_path / "notebook.html", []
    notebook.write_text(f"<p id=mine>{maps(full, color_by=['batch', HOSTILE[1]])._repr_html_()}</p>", encoding="utf-8")
    page = browser.new_page()
    page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    page.on("dialog", lambda d: (wrong.append(f"dialog: {d.message}"), d.dismiss()))
    page.on("request", lambda r: wrong.append(f"request: {r.url}") if r.url != notebook.as_uri() else None)
    page.goto(notebook.as_uri())
    frame = page.frames[1]
    until(frame, "document.querySelectorAll('.map canvas').length === 4")
    before = pictures(frame)
    assert all(len(picture) > 5000 for picture in before)
    frame.select_option("#colour", label=HOSTILE[1])
    assert pictures(frame) != before
    assert HOSTILE[0] in frame.inner_text("#legend")
    # Sandboxed: what a name might smuggle in cannot reach the notebook.
    assert frame.evaluate("() => { try { return parent.document.title } catch (error) { return error.name } }") == (
        "SecurityError"
    )
    page.close()
    assert not wrong
