"""``blip-rl copy``: copy a shipped recipe to a file of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.api.loading import loading
from blip_rl.cli.options import complete_recipes
from blip_rl.shell import shell_command


@click.command("copy", short_help="Copy a shipped recipe to a file to change.")
@click.argument("name", shell_complete=complete_recipes)
@click.argument("file", type=click.Path(path_type=Path))
def copy_recipe(name: str, file: Path) -> None:
    """Copy the shipped agent or sequence NAME to FILE, a new .toml file.

    The copy contains the recipe's own settings and refers to its base for the others. Inherited settings are listed as
    comments with their meaning and allowed values; remove the # to change one.
    """
    from blip_rl.storage.paths import check_new_file

    check_new_file(file)
    with loading():
        from blip_rl.recipes.copy import recipe_copy

    text, option = recipe_copy(name)
    with file.open("x", encoding="utf-8") as written:
        written.write(text)
    click.echo(f"{file}  copy of {name}\ntrain  {shell_command('blip-rl', 'train', option, file)}")
