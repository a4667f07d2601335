"""``blip-rl show``: show every setting of an agent, a sequence or a run."""

from __future__ import annotations

import click

from blip_rl.api.loading import loading
from blip_rl.api.trust import trusting_files
from blip_rl.cli.options import OVERRIDES, TRUST, complete_games, complete_recipes


@click.command(
    short_help="Show the settings of an agent, a sequence or a run.",
    epilog="Keys are those that --set accepts. docs/settings.md lists the settings of every section and method.",
)
@click.argument("name", shell_complete=complete_recipes)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option(
    "--games",
    metavar="LIST",
    shell_complete=complete_games,
    help="With an agent: show the settings of a run on these games; the sequence may override agent settings.",
)
@OVERRIDES
@TRUST
def show(name: str, keys: tuple[str, ...], games: str | None, overrides: tuple[str, ...], trust: bool) -> None:
    """Show every setting of NAME with its meaning, default, allowed values and source.

    NAME is an agent, a sequence, a recipe file or a run folder. With KEY, a setting or a section such as ppo, show only
    that.
    """
    with loading():
        from blip_rl.recipes.explain import explain, explanation_text, select

    with trusting_files(trust):
        explained = explain(name, games=games, overrides=overrides)
    from blip_rl.untrusted.files import printable

    click.echo(printable(explanation_text(explained, select(explained.settings, keys))))
