"""The command line: one file for each verb, ``program`` for what they share. Nothing heavy loads until a verb runs."""

from blip_rl.cli.program import cli, main

__all__ = ["cli", "main"]
