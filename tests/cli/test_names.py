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


# What one name may be unlike in, and why; every other option that two commands share is of one kind.
UNLIKE = {
    "--label-key": "a model keeps, and hands over, several label columns; scores are about one",
    "--missing": "scores and the check leave cells out, a correction cannot",
    "--save-model": "run keeps it in its result, integrate in a file",
    "--adjusted-basis": "the former name of evaluate's --compare, which are several",
}
# Of one meaning, whatever they are called: the name that every command must offer, where it has any of them.
ONE_MEANING = [
    ("--label-key", {"--label", "--label-key", "--save-labels", "--labels"}),
    ("--basis", {"--basis", "--baseline"}),
    ("--compare", {"--compare", "--embedding", "--embeddings"}),
    ("--batch-key", {"--batch-key", "--key", "--keys"}),
    ("--condition-key", {"--condition-key", "--condition-keys"}),
    ("--threads", {"--threads", "--n-threads", "--n-jobs"}),
    ("--seed", {"--seed", "--rng", "--random-state"}),
    ("--output", {"--output", "--out", "-o"}),
    ("--max-iter-harmony", {"--max-iter-harmony", "--max-iter"}),
]
# As they were before names became one.
FORMER = [
    ("map", "--label", "a"),
    ("map", "--min-genes", "0.5"),
    ("integrate", "--save-labels", "a"),
    ("evaluate", "--baseline", "X_pca"),
    ("evaluate", "--embedding", "X_a"),
    ("evaluate", "--adjusted-basis", "X_a"),
    ("run", "--embedding", "X_a"),
]


def walk():
    """Give every option of every command, by each of its names."""
    for command in cli.commands.values():
        for option in command.params:
            if isinstance(option, click.Option):
                for name in option.opts:
                    yield name, command.name, option


def kind(option):
    """Return what an option takes: the class of its value, its choices, several or one; a range is a number."""
    called = type(option.type).__name__.replace("Range", "ParamType")
    # The sweep takes several values of what is one number elsewhere.
    called = {"IntParamType": "number", "FloatParamType": "number", "Numbers": "number", "_Clusters": "number"}.get(
        called, called
    )
    return called, tuple(getattr(option.type, "choices", ())), option.multiple, option.is_flag


def test_a_name_that_commands_share_is_of_one_kind():
    kinds = {}
    for name, command, option in walk():
        kinds.setdefault(name, {}).setdefault(kind(option), []).append(command)
    unlike = {name: found for name, found in kinds.items() if len(found) > 1}
    assert set(unlike) == set(UNLIKE), unlike


def test_options_of_one_meaning_have_one_name():
    names = {}
    for name, command, _ in walk():
        names.setdefault(command, set()).add(name)
    for command, there in names.items():
        for name, others in ONE_MEANING:
            assert not there & others or name in there, (command, there & others)


@pytest.mark.parametrize(("command", "name", "value"), FORMER)
def test_former_names_are_parsed(command, name, value):
    context = click.Context(cli.commands[command])
    parsed, rest, _ = cli.commands[command].make_parser(context).parse_args([name, value])
    (option,) = (option for option in cli.commands[command].params if name in option.opts)
    assert parsed[option.name] in (value, [value])
    assert not rest
