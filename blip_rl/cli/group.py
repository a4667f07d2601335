"""The group of verbs: mistakes become messages, and a verb that does not exist gets the one that was meant."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click

from blip_rl.errors import UserError, did_you_mean
from blip_rl.untrusted.files import printable


class BadInput(click.ClickException):
    """A person's mistake: one message, no traceback."""

    exit_code = 2


def _check_working_directory() -> None:
    """Relative paths, and libraries while they are imported, need one."""
    try:
        Path.cwd()
    except OSError as error:
        raise BadInput("the working directory does not exist any more: change to another one (cd)") from error


class Verbs(click.Group):
    """A group that turns mistakes into messages and suggests the verb that was meant."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb.

        Raises:
            BadInput: the person made a mistake.
        """
        _check_working_directory()
        output: Any = sys.stdout
        if hasattr(output, "reconfigure"):
            output.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are no text
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise BadInput(printable(str(error))) from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            name = str(error.filename)[:80]
            raise BadInput(f"{name!r}…: a name too long for this system: expected a shorter path") from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb.

        Raises:
            click.UsageError: there is none of this name.
        """
        verbs = self.list_commands(ctx)
        if args and args[0] not in verbs and not args[0].startswith("-"):
            hint = did_you_mean(args[0], verbs) or f": expected one of {', '.join(verbs)}"
            raise click.UsageError(f"unknown command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)
