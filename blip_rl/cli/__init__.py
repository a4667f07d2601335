"""The command line: one module per command, started by ``program``. Heavy libraries load when a command runs."""

from blip_rl.cli.program import cli, main

__all__ = ["cli", "main"]
