"""harmonax integrate: remove batch effects from an embedding of a file."""

import shlex

from snakemake.shell import shell

log = snakemake.log_fmt_shell(stdout=True, stderr=True)  # noqa: F821
extra = snakemake.params.get("extra", "")  # noqa: F821
record = snakemake.output.get("record")  # noqa: F821
run_json = f"--run-json {shlex.quote(record)}" if record else ""

shell(
    "harmonax integrate {snakemake.input:q} --output {snakemake.output.corrected:q} {run_json}"
    " --batch-key {snakemake.params.batch_key:q} --threads {snakemake.threads} --quiet --overwrite {extra} {log}"
)
