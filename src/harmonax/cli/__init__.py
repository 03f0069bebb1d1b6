"""The command line: options to calls, errors to exit codes; nothing else.

    workflow.py    harmonax run
    check.py       harmonax check
    integrate.py   harmonax integrate
    evaluate.py    harmonax evaluate
    diagnose.py    harmonax diagnose
    map.py         harmonax map
    counts.py      harmonax counts
    sweep.py       harmonax sweep
    tune.py        harmonax tune
    report.py      harmonax report
    demo.py        harmonax demo
    skill.py       harmonax skill
    values.py      lists of numbers and names, and --config files
    terminal.py    messages on stderr, signals

Commands import what they run when they run it, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..errors import HarmonaxError, NotConvergedError
from ..system.version import __version__
from .check import check
from .counts import counts
from .demo import demo
from .diagnose import diagnose
from .evaluate import evaluate
from .integrate import integrate
from .map import map_command
from .report import report
from .skill import skill
from .sweep import sweep
from .terminal import complain, signals
from .tune import tune
from .workflow import run_workflow

# What a shell reports for a program ended by Ctrl-C.
INTERRUPTED = 130
USAGE, BAD_INPUT, NOT_CONVERGED = 2, 3, 4


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="harmonax")
def cli() -> None:
    """Batch correction for single-cell data: Harmony and Harmony2, exact and fast.

    Exit codes: 0 done; 2 usage; 3 bad input or output; 4 not converged under --strict; 130 interrupted.
    """


_COMMANDS = (run_workflow, check, integrate, map_command, counts, evaluate, diagnose, sweep, tune, report, demo, skill)
for command in _COMMANDS:
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; the entry point ``harmonax``."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        with signals():
            return cli.main(arguments, prog_name="harmonax", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns Ctrl-C into an Abort of its own.
        said = str(error) or str(error.__cause__ or "")
        complain(said or "interrupted; nothing was written")
        return INTERRUPTED
    except HarmonaxError as error:
        complain(str(error))
        return NOT_CONVERGED if isinstance(error, NotConvergedError) else BAD_INPUT
    except MemoryError:
        complain("out of memory")
        return 1
    except Exception as error:
        if "--verbose" in (arguments if arguments is not None else sys.argv):
            raise
        complain(f"internal error: {type(error).__name__}: {error}; --verbose shows where")
        return 1
