"""``blip-rl inspect``: which bits are frozen, and whether weights stayed in their intervals."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.cli.options import RUN


@click.command("inspect", short_help="Show which bits are frozen, and check them.")
@RUN
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_folder(run: Path, as_json: bool) -> None:
    """Show the bits frozen and free in the run in folder RUN, and what still fits.

    The audit counts weights that left an interval and weights whose frozen bits changed, between any two stages.
    """
    from blip_rl.storage.paths import check_run

    check_run(run)
    from blip_rl.report.inspection import inspect_run
    from blip_rl.report.inspection_text import inspection_text

    found = inspect_run(run)
    if as_json:
        import json

        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        click.echo(inspection_text(found))
