"""Options that mean the same are called the same in every command, and former names keep working."""

from __future__ import annotations

import click
import pytest

from harmonax.cli import cli
from harmonax.cli.values import read_config

SAME = {
    "--label-key": {"check": "label_key", "evaluate": "label_key", "run": "label_key", "diagnose": "label_key"}
    | {"sweep": "label_key", "map": "label", "integrate": "save_labels"},
    "--basis": {"check": "basis", "integrate": "basis", "map": "basis", "evaluate": "baseline", "diagnose": "basis"},
    "--compare": {"run": "compare", "evaluate": "embedding"},
    "--embedding": {"run": "compare", "evaluate": "embedding"},
    "--condition-key": {"run": "condition_key", "check": "condition_key"},
    # Former names.
    "--label": {"map": "label"},
    "--save-labels": {"integrate": "save_labels"},
    "--baseline": {"evaluate": "baseline"},
    "--min-genes": {"run": "min_genes", "map": "min_genes"},
    "--min-gene-share": {"map": "min_genes"},
}


@pytest.mark.parametrize("name", SAME)
def test_names(name):
    for command, parameter in SAME[name].items():
        found = [option for option in cli.commands[command].params if name in option.opts]
        assert [option.name for option in found] == [parameter], command


@pytest.mark.parametrize("key", ["label-key", "label_key", "label"])
def test_every_name_may_stand_in_a_configuration(key, tmp_path):
    (tmp_path / "c.toml").write_text(f'{key} = ["a", "b,c"]\n')
    command = cli.commands["map"]
    context = click.Context(command)
    config = next(option for option in command.params if option.name == "config")
    read_config(context, config, str(tmp_path / "c.toml"))
    assert context.default_map == {"label": [("a", "b,c")]}


def test_one_option_under_two_names_is_refused(tmp_path):
    (tmp_path / "c.toml").write_text('label = "a"\nlabel-key = "b"\n')
    command = cli.commands["map"]
    config = next(option for option in command.params if option.name == "config")
    with pytest.raises(click.BadParameter, match="given twice"):
        read_config(click.Context(command), config, str(tmp_path / "c.toml"))


def test_several_conditions():
    from harmonax.workflow import WorkflowOptions

    assert WorkflowOptions(condition_key=("a", "b")).condition_keys == ("a", "b")
    assert WorkflowOptions(condition_key=("a",)).condition_key == "a"
    assert WorkflowOptions().condition_keys == ()
