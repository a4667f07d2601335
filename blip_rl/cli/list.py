"""``blip-rl list``: the names that the other verbs know."""

from __future__ import annotations

import click


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(["games", "agents", "sequences", "methods"]))
@click.option("--all", "every", is_flag=True, help="With games: every ALE ROM too.")
def list_names(kind: str | None, every: bool) -> None:
    """List the names that the other commands know, a line each."""
    from blip_rl.listing import print_names

    print_names(kind, every)
