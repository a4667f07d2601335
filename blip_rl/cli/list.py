"""``blip-rl list``: list games, agents, sequences and methods."""

from __future__ import annotations

import click


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(["games", "agents", "sequences", "methods"]))
@click.option("--all", "every", is_flag=True, help="With games: include every ALE ROM.")
def list_names(kind: str | None, every: bool) -> None:
    """List the available games, agents, sequences and methods, one per line."""
    from blip_rl.listing import print_names

    print_names(kind, every)
