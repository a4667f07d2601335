"""Wrong values and options: one message each with the option, its value and what is expected; nothing is written."""

import click
import pytest
from click.testing import CliRunner

from blip_rl.cli import cli
from blip_rl.cli.values import Choice, Number, WholeNumber

TYPES = (WholeNumber, Number, Choice)
WORDS = {"show": ["blip"], "copy": ["blip", "my.toml"], "import": ["my.zip"]}
"""Command → its arguments; the others take a folder."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments):
    """Return the message of a command that is bad input."""
    done = CliRunner().invoke(cli, arguments, prog_name="blip-rl")
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def options():
    """Yield every option with a bounded number or with a choice of words, by its command."""
    for verb, command in cli.commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.type, TYPES):
                yield verb, option


def outside(kind):
    """Return texts that an option must refuse."""
    if isinstance(kind, Choice):
        return ["zzz", "", "-1"]
    below = kind.min if kind.min_open else kind.min - 1
    above = [] if kind.max is None else [str(kind.max + 1), "9" * 5_000]
    return [str(below), *above, "x", "", "nan", "inf", "1e400", "1_0_"]


@pytest.mark.parametrize(
    ("verb", "option"), [pytest.param(*both, id=f"{both[0]} {both[1].opts[0]}") for both in options()]
)
def test_every_value_that_an_option_does_not_take_is_refused(verb, option, elsewhere):
    name = option.opts[0]
    for text in outside(option.type):
        line = refused(verb, *WORDS.get(verb, ["folder"]), f"{name}={text}")
        assert line.startswith(f"Error: {name} "), line
        assert text[:70] in line
        assert ": expected " in line or ": did you mean " in line
        assert len(line) < 250
    assert not list(elsewhere.iterdir())


def test_no_option_has_a_type_with_messages_of_its_own():
    theirs = (click.types.IntParamType, click.types.FloatParamType, click.Choice)
    for verb, command in cli.commands.items():
        for parameter in command.params:
            assert isinstance(parameter.type, TYPES) or not isinstance(parameter.type, theirs), (verb, parameter.name)


def test_the_bounds_of_a_number_are_numbers_it_takes():
    assert WholeNumber(1, 3).convert("1", None, None) == 1
    assert WholeNumber(1, 3).convert("3", None, None) == 3
    assert WholeNumber(1).convert("4000000000", None, None) == 4_000_000_000
    assert Number(0, 1).convert("1", None, None) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--foo", "--foo: unknown option of blip-rl: expected one that blip-rl --help lists"),
        ("--version=3", "--version with a value: expected --version alone"),
        ("trian", "unknown command 'trian': did you mean train?"),
        ("train -x", "-x: unknown option of blip-rl train: expected one that blip-rl train --help lists"),
        ("train --gmes pong", "--gmes: unknown option of blip-rl train: did you mean --games?"),
        ("train pong", "got unexpected extra argument (pong): expected blip-rl train [OPTIONS]"),
        ("train --seed", "--seed without a value: expected --seed N"),
        ("train --progress", "--progress without a value: expected --progress auto|bar|log|off"),
        ("train --quiet=3", "--quiet with a value: expected --quiet alone"),
        ("train --track wandbb", "--track 'wandbb': did you mean wandb? (one of none, wandb, trackio, mlflow)"),
        (
            "sweep --track wandbb",
            "--track: unknown option of blip-rl sweep, but one of train: expected one that blip-rl sweep --help lists",
        ),
        ("watch", "RUNS is missing: expected blip-rl watch [OPTIONS] RUNS..."),
        ("import my.zip", "--game is missing: expected --game NAME"),
    ],
)
def test_an_option_or_argument_that_cannot_be_read_is_one_message(arguments, message):
    assert refused(*arguments.split()) == f"Error: {message}"
