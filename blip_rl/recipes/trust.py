"""Which packages a file may have imported: none, unless the person who runs it has said so.

Gymnasium imports what stands before the colon of ``package:Name-v0``: code that the author of a recipe or of a run
folder has chosen. What a person types after ``--games`` is that person's choice; what a file says is not.
"""

from __future__ import annotations

import os
import sys

TRUSTED = "BLIP_RL_TRUSTED_PACKAGES"
"""Environment variable: names of packages, separated by commas."""


def import_problem(game: str) -> str:
    """What is wrong with a game that a file names; empty where it imports nothing new.

    A package that has been imported already runs no code any more.
    """
    package, colon, _ = game.rpartition(":")
    named = [name.strip() for name in os.environ.get(TRUSTED, "").split(",") if name.strip()]
    if not colon or package in sys.modules or package in named:
        return ""
    shown = package[:80] if package.isprintable() else "NAME"
    return (
        f"a file may not import a package, for {package[:80]!r} is code that its author chose: expected a ROM or a "
        f"registered id (if you trust the package, name it yourself: {TRUSTED}={shown} before the command)"
    )
