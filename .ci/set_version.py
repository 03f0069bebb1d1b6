"""Set the version in every place that has it, and date the changelog.

usage: set_version.py X.Y.Z
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = r"\d+\.\d+\.\d+"
# Each file, and what stands before the version there.
PLACES = {
    "pyproject.toml": r'^version = "',
    "src/harmonax/system/version.py": r'^__version__ = "',
    "CITATION.cff": r"^version: ",
    "r/harmonax/DESCRIPTION": r"^Version: ",
    "r/harmonax/NEWS.md": r"^# harmonax ",
    "src/harmonax/SKILL.md": r"^Version: ",
    "packaging/conda/recipe.yaml": r'^  version: "',
    "packaging/galaxy/harmonax.xml": r'<token name="@TOOL_VERSION@">',
    "packaging/snakemake/environment.yaml": r"^  - harmonax =",
    "packaging/nf-core/modules/harmonax/run/environment.yml": r"^  - bioconda::harmonax(?:-workflow)?=",
    "packaging/nf-core/modules/harmonax/run/main.nf": r'container "harmonax:',
    "packaging/nf-core/modules/harmonax/integrate/environment.yml": r"^  - bioconda::harmonax(?:-workflow)?=",
    "packaging/nf-core/modules/harmonax/integrate/main.nf": r'container "harmonax:',
    "packaging/nf-core/modules/harmonax/map/environment.yml": r"^  - bioconda::harmonax(?:-workflow)?=",
    "packaging/nf-core/modules/harmonax/map/main.nf": r'container "harmonax:',
    "packaging/scverse/meta.yaml": r"^version: v",
    "packaging/openproblems/config.vsh.yaml": r"harmonax==",
}


def main(version: str) -> None:
    """Write the version everywhere; the first entry of the changelog gets its number and today's date."""
    if not re.fullmatch(VERSION, version):
        sys.exit(f"{version} is not X.Y.Z")
    for name, before in PLACES.items():
        path = ROOT / name
        text, n = re.subn(
            f"({before}){VERSION}", rf"\g<1>{version}", path.read_text(encoding="utf-8"), count=1, flags=re.M
        )
        if not n:
            sys.exit(f"{name} has no version after {before}")
        path.write_text(text, encoding="utf-8")
    today = datetime.date.today().isoformat()
    citation = ROOT / "CITATION.cff"
    dated = re.sub(r"^date-released: .*$", f"date-released: {today}", citation.read_text(encoding="utf-8"), flags=re.M)
    citation.write_text(dated, encoding="utf-8")
    log = ROOT / "CHANGELOG.md"
    text = log.read_text(encoding="utf-8")
    if f"## [{version}]" not in text:
        log.write_text(
            text.replace("## [Unreleased]\n", f"## [Unreleased]\n\n## [{version}] - {today}\n", 1), encoding="utf-8"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
