"""Everything that is run on this project, and the environments that it runs in; ``make`` or ``nox --list`` names it.

``make SESSION`` installs nox and runs one session; ``.ci/run`` does so for each of `CI` in turn. Sessions that use
harmonax share the environment ``.venv``; tools that do not need it have small ones of their own under ``.nox``.
A session that cannot run here says why and counts as skipped.

The real data and the users' scripts are looked for in $HARMONAX_TEST_DATA and $HARMONAX_DESIGN_SCRIPTS, by default in
../shared. Chromium and R are installed only where $HARMONAX_SYSTEM_PACKAGES is "install", as it is in ``.ci/run``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
# What .ci/run runs: `r` tests with the wheel of `package`, and the smoke sessions install its archive.
CI = ["browser", "environments", "test", "thorough", "tutorials", "workflow312"]
CI += ["lint", "package", "kernels", "types", "parity", "user", "demo", "run", "docs", "r", "smoke312", "smoke313"]
nox.options.sessions = CI

ROOT = Path(__file__).resolve().parent
BIN, EXE = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
DATA = Path(os.environ.setdefault("HARMONAX_TEST_DATA", str(ROOT.parent / "shared" / "data")))
SCRIPTS = Path(os.environ.get("HARMONAX_DESIGN_SCRIPTS", ROOT.parent / "shared" / "design" / "scripts"))
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
EXTRAS = PROJECT["project"]["optional-dependencies"]
# What the tests use, and what the types are checked against.
EVERYTHING = ("workflow", "jax", "dask")
# The tests of `make test`.
QUICK = "not slow and not thorough"
# Two processes, each with a file of tests at a time: a file shares what it has made.
PARALLEL = ("-n", "2", "--dist", "loadfile")
# Slow, and asked of every version: whether scanpy reads what this version of pynndescent gives.
NEIGHBOURS = "tests/workflow/test_workflow.py::test_neighbours_of_more_cells_than_are_compared_with_each_other"
# A change to one of these means that the package is built again.
BUILT_FROM = [
    *(ROOT / "pyproject.toml", ROOT / "CMakeLists.txt"),
    *sorted(path for kind in ("cpp", "hpp", "inl") for path in (ROOT / "src/harmonax/kernels").glob(f"*.{kind}")),
]
# The site: warnings are errors, all of them are told.
SPHINX = ("-m", "sphinx", "-W", "--keep-going", "--quiet", "--jobs", "2")
# Name, data set, and options of its own: that of onek1k has 1,000 genes, of which a cell has about 100.
REPORTS = {"kang": ("kang_fullgenes",), "pancreas": ("pancreas_3prot",)}
REPORTS |= {"onek1k": ("onek1k_subset", "--min-genes", "20")}
CXX_SOURCES = [str(path) for path in BUILT_FROM[2:]] + ["tests/kernels/test_kernels.cpp"]


# Environments


def environment(session: nox.Session, *parts: str, folder: str = ".venv", interpreter: str = sys.executable) -> str:
    """Return the Python of an environment with harmonax, editable, and these extras and dependency groups."""
    python = ROOT / folder / BIN / f"python{EXE}"
    if not (ROOT / folder / "pyvenv.cfg").exists():
        session.run(interpreter, "-m", "venv", folder, external=True)
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in BUILT_FROM)).hexdigest()
    wanted = {"harmonax": (["--editable", "."], sources)}
    wanted |= {part: (requirements(part), " ".join(requirements(part))) for part in parts}
    # One call for all, so that pip chooses versions that suit all; a stamp says what was installed from what.
    stale = [name for name, (_, state) in wanted.items() if state != read_or_none(ROOT / folder / f".{name}")]
    if stale:
        arguments = [argument for name in stale for argument in wanted[name][0]]
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        session.run(*pip, *arguments, external=True)
    for name in stale:
        (ROOT / folder / f".{name}").write_text(wanted[name][1], encoding="utf-8")
    return str(python)


def requirements(part: str) -> list[str]:
    """Return what an extra or a dependency group of pyproject.toml asks for, also where an extra names another one."""
    asked = EXTRAS[part] if part in EXTRAS else nox.project.dependency_groups(PROJECT, part)
    # pip looks for harmonax itself on the index where it is to be installed from here.
    own = {name: requirements(name[len("harmonax[") : -1]) for name in asked if name.startswith("harmonax[")}
    return [found for name in asked for found in own.get(name, [name])]


def read_or_none(path: Path) -> str | None:
    """Return the text of a file, None where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else None


def find_python(version: str) -> str | None:
    """Return a Python of this version that really runs: pyenv has shims also for versions that are not switched on."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    check = f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for candidate in (f"python{version}", *map(str, pyenv.glob(f"{version}.*/bin/python")), sys.executable):
        program = shutil.which(candidate)
        if program and subprocess.run([program, "-c", check], capture_output=True, check=False).returncode == 0:
            return program
    return None


def need(session: nox.Session, *paths: Path) -> None:
    """Skip the session where one of these is missing."""
    for path in paths:
        if not path.exists():
            session.skip(f"there is no {path}")


def system_packages(session: nox.Session, why: str, *names: str) -> None:
    """Install Debian packages where that is allowed; skip the session where it is not."""
    root = getattr(os, "geteuid", lambda: 1)() == 0
    if not (os.environ.get("HARMONAX_SYSTEM_PACKAGES") == "install" and root and shutil.which("apt-get")):
        session.skip(f"{why}, and no permission to install it")
    session.run("apt-get", "update", "-qq", external=True)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names]
    session.run(*install, env={"DEBIAN_FRONTEND": "noninteractive"}, external=True, silent=True)


def timed(session: nox.Session, what: str, *command: str) -> None:
    """Run a command and say how long it took."""
    start = time.monotonic()
    session.run(*command, external=True)
    session.log(f"{what}: {time.monotonic() - start:.0f} s")


# Tests


@nox.session(python=False)
def browser(session: nox.Session) -> None:
    """Chromium, in which the report is tested."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, names)):
        system_packages(session, "there is no Chromium", "chromium")
    session.run(next(filter(None, map(shutil.which, names))), "--version", external=True)


@nox.session(python=False)
def environments(session: nox.Session) -> None:
    """The environment that most sessions share, with all that they need: they may then run side by side."""
    environment(session, *EVERYTHING, "demo", "test", "types", "docs")


@nox.session(python=False)
def test(session: nox.Session) -> None:
    """Run the tests, a file at a time on two processes; what follows ``--`` goes to pytest, such as ``-n 0``."""
    python = environment(session, *EVERYTHING, "test")
    session.run(python, "-m", "pytest", "-m", QUICK, *PARALLEL, *session.posargs, external=True)


@nox.session(python=False)
def thorough(session: nox.Session) -> None:
    """Run the tests that take many seconds each: killed processes, second derivatives, whole runs, training."""
    python = environment(session, *EVERYTHING, "test")
    session.run(python, "-m", "pytest", "-m", "thorough and not slow", *PARALLEL, *session.posargs, external=True)


@nox.session(python=False)
def tutorials(session: nox.Session) -> None:
    """The tutorials' pages, which train for minutes and assert the figures that they state, and other slow tests."""
    python = environment(session, *EVERYTHING, "test")
    pages = (
        "tests/docs/test_tutorials.py",
        "tests/training/test_encoder.py",
        "tests/evaluation/test_further.py",
        "tests/inputs/test_table.py",
        NEIGHBOURS,
    )
    # A test at a time on two processes: they are few and long.
    session.run(python, "-m", "pytest", "-m", "slow", "-n", "2", *pages, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and formatting, by ruff and clang-format; who may import whom, by import-linter."""
    session.install(*requirements("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("clang-format", "--dry-run", "--Werror", *CXX_SOURCES)
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session(name="format", default=False)
def format_(session: nox.Session) -> None:
    """Apply what ruff and clang-format check in `lint`."""
    session.install(*requirements("lint"))
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")
    session.run("clang-format", "-i", *CXX_SOURCES)


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Types, by mypy."""
    session.run(environment(session, *EVERYTHING, "types"), "-m", "mypy", external=True)


@nox.session
def kernels(session: nox.Session) -> None:
    """The kernels' own tests under sanitizers: address and undefined behaviour, then threads; on 1 to 64 threads."""
    session.install("cmake", "ninja")
    for sanitizers, threads in (("address,undefined", ("1", "3", "64")), ("thread", ("2", "64"))):
        folder = f"build/kernel-tests-{sanitizers.partition(',')[0]}"
        options = ("-DHARMONAX_KERNEL_TESTS=ON", f"-DHARMONAX_SANITIZERS={sanitizers}")
        session.run("cmake", "-S", ".", "-B", folder, "-G", "Ninja", *options)
        session.run("cmake", "--build", folder)
        session.run(f"{folder}/test_kernels", *threads, external=True)


@nox.session(python=False)
def parity(session: nox.Session) -> None:
    """Recorded runs of other programs, replayed with the dense reference."""
    need(session, DATA / "parity")
    runs = sorted(map(str, (DATA / "parity").glob("*.npz")))
    session.run(environment(session), "tests/parity/replay.py", *runs, external=True)


@nox.session(python=False)
def user(session: nox.Session) -> None:
    """Scripts of users of harmonypy, of scanpy and of a differentiable library, with one import changed."""
    arguments = {
        "harmonypy_user.py": [DATA / "pbmc_3500.h5ad"],
        "scanpy_user.py": [DATA / "kang_fullgenes.h5ad"],
        "jax_user.py": [],
    }
    need(session, *(SCRIPTS / name for name in arguments), *(path for paths in arguments.values() for path in paths))
    python = environment(session, *EVERYTHING)
    with tempfile.TemporaryDirectory() as folder:
        arguments["scanpy_user.py"].append(Path(folder, "result.h5ad"))
        for name, paths in arguments.items():
            printed = session.run(python, str(SCRIPTS / name), *map(str, paths), external=True, silent=True)
            session.log("\n".join(str(printed).splitlines()[-6:]))


# The commands


@nox.session(python=False)
def demo(session: nox.Session) -> None:
    """Simulate and correct a data set, and open the report in the folder given after ``--``."""
    harmonax = Path(environment(session, "demo")).with_name(f"harmonax{EXE}")
    folder = Path(*session.posargs or ["demo"])
    timed(session, "harmonax demo", str(harmonax), "demo", "-o", str(folder), "--open")
    need_files(session, folder, "demo.h5ad", "demo.png", "report.html")


@nox.session(python=False)
def run(session: nox.Session) -> None:
    """From counts to the report, with one command each."""
    inputs = [DATA / f"{name}.h5ad" for name in ("pbmc_sorted", "kang_fullgenes")]
    need(session, *inputs)
    harmonax = Path(environment(session, *EVERYTHING)).with_name(f"harmonax{EXE}")
    options = ["--batch-key", "batch", "--label-key", "cell_type", "--from-counts"]
    with tempfile.TemporaryDirectory() as folder:
        for path in inputs:
            out = Path(folder, path.stem)
            timed(session, f"harmonax run {path.stem}", str(harmonax), "run", str(path), "-o", str(out), *options)
            need_files(session, out, "report.html")


def need_files(session: nox.Session, folder: Path, *names: str) -> None:
    """Fail unless a command has written these files, with something in them."""
    missing = [name for name in names if not (folder / name).exists() or not (folder / name).stat().st_size]
    if missing:
        session.error(f"{folder} lacks {', '.join(missing)}")


@nox.session(python=False, default=False)
def bench(session: nox.Session) -> None:
    """The benchmark table; other programs get environments of their own under benchmarks/.envs."""
    python = environment(session, "demo")
    session.run(python, "benchmarks/kernel_rate.py", external=True)
    session.run(python, "benchmarks/speed.py", *session.posargs, external=True)
    session.run(python, "benchmarks/quality.py", external=True)
    session.run(python, "benchmarks/scaling.py", external=True)


# What is released


@nox.session
def package(session: nox.Session) -> None:
    """Source archive and wheel in dist/: complete, light to import, and at work in an empty environment."""
    session.install(*requirements("release"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")
    session.run("python", "-m", "twine", "check", "--strict", *map(str, Path("dist").iterdir()))
    session.run("python", ".ci/check_package.py", "dist")


@nox.session(default=False)
def sbom(session: nox.Session) -> None:
    """What an installation of the wheel in dist/ consists of, in dist/harmonax.cdx.json (CycloneDX)."""
    (wheel,) = map(str, Path("dist").glob("*.whl"))
    session.install("cyclonedx-bom>=7")
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "venv", folder)
        python = str(Path(folder, BIN, f"python{EXE}"))
        session.run(python, "-m", "pip", "install", "--quiet", wheel, external=True)
        session.run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", "pip", external=True)
        about = ("--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible")
        session.run("cyclonedx-py", "environment", python, *about, "-o", "dist/harmonax.cdx.json")


@nox.session(python=False)
def docs(session: nox.Session) -> None:
    """The documentation site in build/docs, with warnings as errors; links within it are checked."""
    session.run(environment(session, *EVERYTHING, "docs"), *SPHINX, "-b", "html", "docs", "build/docs", external=True)


@nox.session(python=False, default=False)
def linkcheck(session: nox.Session) -> None:
    """Whether the pages that the site links to are there; asks other sites."""
    python = environment(session, *EVERYTHING, "docs")
    session.run(python, *SPHINX, "-b", "linkcheck", "docs", "build/linkcheck", external=True)


@nox.session(python=False, default=False)
def gallery(session: nox.Session) -> None:
    """Reports of three real data sets in build/gallery, which the site takes in."""
    need(session, *(DATA / f"{name}.h5ad" for name, *_ in REPORTS.values()))
    harmonax = Path(environment(session, *EVERYTHING)).with_name(f"harmonax{EXE}")
    options = ["--batch-key", "batch", "--label-key", "cell_type", "--from-counts", "--overwrite"]
    for name, (data, *own) in REPORTS.items():
        out = ROOT / "build" / "gallery" / name
        timed(session, name, str(harmonax), "run", str(DATA / f"{data}.h5ad"), "-o", str(out), *options, *own)
        shutil.copyfile(out / "report.html", out.with_suffix(".html"))


@nox.session(python=False)
def r(session: nox.Session) -> None:
    """The R package: its archive with the vignette, its tests with the engine of .venv, then R CMD check."""
    if not has_r_packages():
        names = ("reticulate", "jsonlite", "seurat", "ggplot2", "testthat", "knitr", "rmarkdown")
        debian = [f"r-cran-{name}" for name in names]
        why = "there is no R with Seurat and reticulate"
        system_packages(session, why, "r-base-dev", "pandoc", "r-bioc-singlecellexperiment", *debian)
    library = ROOT / "build" / "r"
    shutil.rmtree(library, ignore_errors=True)
    library.mkdir(parents=True)
    for old in (ROOT / "build").glob("harmonax_*.tar.gz"):
        old.unlink()
    env = {"RETICULATE_PYTHON": environment(session, *EVERYTHING)}
    # harmonax_install() is tested with the wheel of the session `package`, where that has run.
    for wheel in ROOT.glob("dist/*.whl"):
        env["HARMONAX_R_INSTALL_FROM"] = str(wheel)
    with_package = env | {"R_LIBS": os.pathsep.join(filter(None, [str(library), os.environ.get("R_LIBS")]))}
    with session.chdir("build"):
        session.run("R", "CMD", "build", "../r/harmonax", env=with_package, external=True)
    (archive,) = (ROOT / "build").glob("harmonax_*.tar.gz")
    session.run("R", "CMD", "INSTALL", f"--library={library}", str(archive), env=with_package, external=True)
    tests = "testthat::test_dir('testthat', package = 'harmonax', load_package = 'installed', reporter = 'summary')"
    with session.chdir("r/harmonax/tests"):
        session.run(os.environ.get("RSCRIPT", "Rscript"), "-e", tests, env=with_package, external=True)
    with tarfile.open(archive) as files:
        vignette = files.extractfile("harmonax/inst/doc/seurat.html")
        if vignette is None or b"Harmony: converged" not in vignette.read():
            session.error("the vignette was built without the engine")
    check_r(session, archive, env)


def has_r_packages() -> bool:
    """Return whether the R package can be built and tested here."""
    wanted = ("reticulate", "Seurat", "SingleCellExperiment", "ggplot2", "testthat", "jsonlite", "rmarkdown")
    code = f"quit(status = !all(sapply(c({', '.join(map(repr, wanted))}), requireNamespace, quietly = TRUE)))"
    if not all(map(shutil.which, ("R", "Rscript", "pandoc"))):
        return False
    return subprocess.run(["Rscript", "-e", code], capture_output=True, check=False).returncode == 0


def check_r(session: nox.Session, archive: Path, env: dict[str, str]) -> None:
    """R CMD check of a source archive, without warnings."""
    with tempfile.TemporaryDirectory() as folder:
        with session.chdir(folder):
            # Not again what ran before: the tests, and the vignette for the archive.
            done = ("--no-tests", "--no-build-vignettes")
            session.run("R", "CMD", "check", "--no-manual", *done, str(archive), env=env, external=True)
        log = Path(folder, "harmonax.Rcheck", "00check.log").read_text(encoding="utf-8")
    if found := [line for line in log.splitlines() if line.endswith(("WARNING", "ERROR"))]:
        session.error("\n".join(found))


# Other versions of Python


def smoke(session: nox.Session) -> None:
    """Install into an empty environment of another Python, and use it away from the checkout.

    Python 3.12 builds a wheel from the source archive, 3.13 installs that one: from 3.12 on there is one for all.
    """
    if not session.python:
        session.skip(f"no Python for {session.name} that runs")
    wheels = ROOT / "build" / "abi3"
    if session.name == "smoke312":
        archives = list(ROOT.glob("dist/*.tar.gz"))
        if not archives:
            session.error("there is no source archive in dist/: run the session `package` first")
        shutil.rmtree(wheels, ignore_errors=True)
        session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels), str(archives[0]))
    made = list(map(str, wheels.glob("*.whl")))
    if not made:
        session.error("there is no wheel in build/abi3: run the session `smoke312` first")
    session.install(*made)
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        session.run("python", str(ROOT / ".ci" / "smoke.py"))


# reuse_venv: what is imported must be what was installed just now.
for version in ("3.12", "3.13"):
    nox.session(name=f"smoke{version.replace('.', '')}", python=find_python(version) or False, reuse_venv=False)(smoke)


@nox.session(python=False)
def workflow312(session: nox.Session) -> None:
    """The tests that meet other versions of scanpy, JAX and scib-metrics than Python 3.11 has."""
    interpreter = find_python("3.12")
    if interpreter is None:
        session.skip("no Python 3.12 that runs")
    python = environment(session, *EVERYTHING, "test", folder=".venv312", interpreter=interpreter)
    tests = ["evaluation/test_evaluate", "workflow/test_workflow", "workflow/test_workflow_inputs", "io/test_io"]
    tests += ["cells/test_jax_cells", "operators/test_soft_kmeans", "mapping/test_mapping"]
    paths = [f"tests/{name}.py" for name in tests]
    session.run(python, "-m", "pytest", "-m", QUICK, *PARALLEL, *paths, external=True)
    session.run(python, "-m", "pytest", "-m", "slow", NEIGHBOURS, external=True)
