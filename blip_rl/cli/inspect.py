"""``blip-rl inspect``: show frozen bits and check that weights stayed in their intervals."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.cli.options import RUN


@click.command("inspect", short_help="Show and check the frozen bits of a run.")
@RUN
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect_folder(run: Path, as_json: bool) -> None:
    """Show frozen and free bits per layer in run folder RUN, and the estimated remaining capacity.

    Also counts weights that left their interval and weights whose frozen bits changed between stages.
    """
    from blip_rl.storage.paths import check_run

    check_run(run)
    from blip_rl.reporting.inspection import inspect_run
    from blip_rl.reporting.inspection_text import inspection_text

    found = inspect_run(run)
    if as_json:
        import json

        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        click.echo(inspection_text(found))
