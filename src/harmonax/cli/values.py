"""Values of options: lists of numbers and of names, and files that hold options."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from ..errors import FileFormatError, InputError, nearest
from ..system.validate import check_file


class Numbers(click.ParamType):
    """One number, or several with commas; a list in a configuration file."""

    name = "number[,number...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | tuple[float, ...]:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
        try:
            numbers = tuple(float(part) for part in parts)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a number or a list of numbers with commas", param, ctx)
        return numbers[0] if len(numbers) == 1 and not isinstance(value, (list, tuple)) else numbers


class Threshold(click.ParamType):
    """A number, or "none" for no threshold."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        # Not None yet: that is an option which was not given.
        if isinstance(value, str) and value.lower() == "none":
            return "none"
        try:
            return float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a number nor 'none'", param, ctx)


class Names(click.ParamType):
    r"""Names with commas; one that has a comma is quoted, or has a backslash before it: '"a,b",c', 'a\,b,c'."""

    name = "name[,name...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        row = next(csv.reader([str(value)], skipinitialspace=True, escapechar="\\"), [])
        names = tuple(part.strip() for part in row)
        if not names or not all(names):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return names


def read_config(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    """Make the options of a TOML file the defaults of this call, so that the command line wins."""
    if path is None:
        return None
    try:
        check_file(path)
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except InputError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", ctx, param) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not TOML: {error}", ctx, param) from None
    there = [o for o in ctx.command.params if isinstance(o, click.Option) and o.name and o is not param]
    # An option may have several names, former ones among them.
    options = {opt.lstrip("-").replace("-", "_"): o for o in there for opt in o.opts} | {o.name: o for o in there}
    known = [name.replace("_", "-") for name in options]
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in options:
            raise click.BadParameter(
                f"{path}: unknown option '{key}'; {nearest(key.replace('_', '-'), known)}", ctx, param
            )
        option = options[name]
        if option.name in chosen:
            raise click.BadParameter(f"{path}: '{key}' is given twice", ctx, param)
        chosen[str(option.name)] = _as_given(path, key, value, option, ctx, param)
    ctx.default_map = {**(ctx.default_map or {}), **chosen}
    return path


def _as_given(path: str, key: str, value: Any, option: click.Option, ctx: click.Context, param: click.Parameter) -> Any:
    """Return a value of TOML as the option takes it, or refuse one of the wrong kind."""
    if isinstance(value, dict):
        raise click.BadParameter(f"{path}: '{key}' is a table; options stand at the top level", ctx, param)
    if option.is_flag != isinstance(value, bool):
        wanted = "true or false" if option.is_flag else "a value, not true or false"
        raise click.BadParameter(f"{path}: '{key}' must be {wanted}", ctx, param)
    if option.multiple:
        return [tuple(str(v) for v in value)] if isinstance(value, list) else [value]
    if isinstance(value, list) and not isinstance(option.type, Numbers):
        raise click.BadParameter(f"{path}: '{key}' takes one value, not a list", ctx, param)
    return value


def read_markers(path: str) -> dict[str, list[str]]:
    """Return the genes by cell type that a TOML file lists."""
    check_file(path)
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileFormatError(f"{path} is not TOML: {error}") from None
    for name, genes in table.items():
        if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
            raise FileFormatError(f'{path}: {name} must be a list of genes, such as ["MS4A1", "CD79A"]')
    return table


# Of commands that look only: cells without a batch are left out.
missing_option = click.option(
    "--missing",
    type=click.Choice(["leave_out", "literal"]),
    default="leave_out",
    show_default=True,
    help="Whether text such as NA is a batch's name.",
)


def column_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of how batch columns are read, and of the columns that play another part."""
    for option in (
        click.option(
            "--allow-many-levels", is_flag=True, help="Accept columns that look like measurements or barcodes."
        ),
        click.option(
            "--covariate",
            "covariates",
            type=Names(),
            multiple=True,
            help="Numeric columns to remove beside the batches, such as pct_counts_mt.",
        ),
        click.option(
            "--protect", type=Names(), multiple=True, help="Columns with biology that must stay, such as the condition."
        ),
        click.option(
            "--reference",
            type=Names(),
            multiple=True,
            help="Batch levels whose cells stay where they are, as LEVEL, or COLUMN=LEVEL of several batch columns.",
        ),
        click.option(
            "--missing",
            type=click.Choice(["error", "level", "literal"]),
            default="error",
            show_default=True,
            help="What missing batch labels are.",
        ),
        click.option("--combine-keys", is_flag=True, help="Join the batch columns into one variable."),
    ):
        command = option(command)
    return command


def flat(given: Iterable[Iterable[str]]) -> list[str]:
    """Return the names of an option that may be given several times."""
    return [name for names in given for name in names]


def roles_of(options: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """Return what stays and what else goes, as Python's functions take it; nothing where nothing was asked for."""
    from ..inputs.roles import named_levels

    levels = named_levels(flat(options["reference"]), keys)
    roles = {"reference": levels} | {name: flat(options[name]) for name in ("protect", "covariates")}
    return {name: given for name, given in roles.items() if given}


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that all have: --config, --quiet and --verbose."""
    for option in (
        click.option("--verbose", is_flag=True, help="Print more."),
        click.option("--quiet", is_flag=True, help="Print results and errors only."),
        click.option(
            "--config",
            metavar="TOML",
            is_eager=True,
            callback=read_config,
            help="File of options by their long names; the command line wins.",
        ),
    ):
        command = option(command)
    return command
