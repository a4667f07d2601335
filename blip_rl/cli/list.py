"""``blip-rl list``: list games, agents, sequences and methods."""

from __future__ import annotations

import click

from blip_rl.cli.values import Choice
from blip_rl.errors import UserError
from blip_rl.listing import TAGS


@click.command("list")
@click.argument("kind", required=False, type=Choice(["games", "agents", "sequences", "methods"]))
@click.option("--tag", type=Choice(TAGS), help="With sequences: only those with this tag.")
@click.option("--all", "every", is_flag=True, help="With games: include every ALE ROM.")
def list_names(kind: str | None, tag: str | None, every: bool) -> None:
    """List the available games, agents, sequences and methods, one per line."""
    from blip_rl.listing import print_names

    if tag is not None and kind not in (None, "sequences"):
        raise UserError(f"--tag {tag} with {kind}: expected sequences, which alone have tags")
    print_names("sequences" if tag else kind, every, tag)
