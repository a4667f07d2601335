"""The command group: turns user errors into one message each and suggests similar names for unknown commands."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click

from blip_rl.cli.usage import usage_problem
from blip_rl.errors import UserError, did_you_mean
from blip_rl.untrusted.files import printable


class BadInput(click.ClickException):
    """Invalid input: one message without a traceback, exit code 2."""

    exit_code = 2


def _check_working_directory() -> None:
    """Check that the working directory exists: relative paths and some library imports need it."""
    try:
        Path.cwd()
    except OSError as error:
        raise BadInput("the working directory no longer exists: change to another one (cd)") from error


class Verbs(click.Group):
    """A click group that reports user errors as messages and suggests similar command names."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the options of the group itself; those of a command are read by :meth:`invoke`.

        Raises:
            BadInput: an unknown option, or a value for one that takes none.
        """
        try:
            return super().make_context(info_name, args, parent, **extra)
        except (click.NoSuchOption, click.BadOptionUsage) as error:
            raise BadInput(printable(usage_problem(error, click.Context(self, parent, info_name)))) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            BadInput: invalid input.
        """
        _check_working_directory()
        output: Any = sys.stdout
        if hasattr(output, "reconfigure"):
            output.reconfigure(errors="backslashreplace")  # file names may contain bytes that are not valid UTF-8
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise BadInput(printable(str(error))) from error
        except click.UsageError as error:
            raise BadInput(printable(usage_problem(error, ctx))) from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            name = str(error.filename)[:80]
            raise BadInput(f"{name!r}…: path too long for this system: expected a shorter path") from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command by its name.

        Raises:
            UserError: unknown command.
        """
        verbs = self.list_commands(ctx)
        if args and args[0] not in verbs and not args[0].startswith("-") and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], verbs) or f": expected one of {', '.join(verbs)}"
            raise UserError(f"unknown command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)
