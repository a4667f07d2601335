"""Messages about options and arguments that click cannot read: unknown, missing, or without their value."""

from __future__ import annotations

import click

from blip_rl.cli.values import label
from blip_rl.errors import did_you_mean

_LONGEST_NAME = 80  # characters of a wrong option in a message


def usage_problem(error: click.UsageError, group: click.Context) -> str:
    """Return one line that says what is wrong and what is expected.

    Args:
        error: Error of click while it read the options and arguments of the group or one of its commands.
        group: The group's context.
    """
    context = error.ctx or _context(group)
    if isinstance(error, click.NoSuchOption):
        return _unknown_option(error.option_name, context)
    if isinstance(error, click.BadOptionUsage):
        return _wrong_use(error.option_name, context)
    if isinstance(error, click.MissingParameter):
        expected = _with_value(error.param) if isinstance(error.param, click.Option) else _usage(context)
        return f"{label(error.param)} is missing: expected {expected}"
    text = error.message.strip().removesuffix(".")
    if isinstance(error, click.BadParameter):
        return f"{label(error.param)}: {text[:1].lower()}{text[1:]}"
    return f"{text[:1].lower()}{text[1:]}: expected {_usage(context)}"


def _context(group: click.Context) -> click.Context:
    """Return the context of the command that was being read: click does not give it with every error."""
    name = group.invoked_subcommand
    if name is None or not isinstance(group.command, click.Group):
        return group
    return click.Context(group.command.commands[name], parent=group, info_name=name)


def _unknown_option(option: str, context: click.Context) -> str:
    """Return the message about an option that the command does not have, but another one may have."""
    name = option if len(option) <= _LONGEST_NAME else f"{option[: _LONGEST_NAME - 1]}…"
    group = context.parent.command if context.parent is not None else None
    commands = group.commands if isinstance(group, click.Group) else {}
    others = [other for other, command in commands.items() if option in _long_names(command)]
    known = f", but one of {', '.join(others)}" if others else ""
    own = [long.removeprefix("--") for long in _long_names(context.command)]
    hint = "" if others else did_you_mean(name.lstrip("-"), own).replace("mean ", "mean --")
    fix = hint or f": expected one that {context.command_path} --help lists"
    return f"{name}: unknown option of {context.command_path}{known}{fix}"


def _wrong_use(option: str, context: click.Context) -> str:
    """Return the message about an option without its value, or a flag with one."""
    options = [one for one in context.command.params if isinstance(one, click.Option)]
    found = next((one for one in options if option in (*one.opts, *one.secondary_opts)), None)
    if found is None or found.is_flag:
        return f"{option} with a value: expected {option} alone"
    return f"{option} without a value: expected {_with_value(found)}"


def _with_value(option: click.Option) -> str:
    words = option.type.choices if isinstance(option.type, click.Choice) else ()
    value = option.metavar or "|".join(map(str, words)) or option.type.name.upper()
    return f"{label(option)} {value}"


def _usage(context: click.Context) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def _long_names(command: click.Command) -> list[str]:
    options = [one for one in command.params if isinstance(one, click.Option)]
    return [name for one in options for name in (*one.opts, *one.secondary_opts) if name.startswith("--")]
