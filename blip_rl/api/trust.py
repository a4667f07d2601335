"""Trust in what recipes and run folders import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blip_rl.api.loading import loading
from blip_rl.untrusted.files import printable


@contextmanager
def trusting_files(given: bool, *, remember: bool = True) -> Iterator[None]:
    """Trust what recipes read in this block name if ``given``, and print on stderr what is new: it is remembered."""
    from blip_rl.recipes import trusting

    with trusting(given, remember=remember) as new:
        yield
    for line in new:
        with suppress(OSError, ValueError):  # a closed stderr
            print(f"trusted: {printable(line)}", file=sys.stderr)


def trust_runs(given: bool, *runs: Path) -> None:
    """Trust what run folders name if ``given``.

    Raises:
        UserError: a folder or its recipe is invalid.
    """
    if given:
        with loading():
            from blip_rl.recipes import load_run_config
        with trusting_files(given):
            for run in runs:
                load_run_config(run)
