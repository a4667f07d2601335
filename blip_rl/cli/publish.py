"""``blip-rl publish``: write a folder for the Hugging Face Hub, and push it."""

from __future__ import annotations

from pathlib import Path

import click

from blip_rl.cli.options import RUN, STAGES, complete_folders
from blip_rl.shell import shell_command


@click.command(
    short_help="Write a folder for the Hugging Face Hub, or push it.",
    epilog="The folder is a run folder: evaluate, render, report, inspect and export take it. From Python: "
    "br.load('hf:USER/NAME'). It contains the command that trained the run, with the paths that it names.",
)
@RUN
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=complete_folders,
    metavar="FOLDER",
    help="New folder.  [default: hub in RUN, which is replaced]",
)
@click.option(
    "--to", metavar="USER/NAME", help="Push the folder to this model repository; needs a token (hf auth login)."
)
@click.option("--licence", default="mit", metavar="NAME", help="Licence of the weights, as the Hub names it.")
@click.option("--private", is_flag=True, help="With --to: make a new repository private.")
@click.option("--half", is_flag=True, help="Only what playing needs, in half precision where policies stay the same.")
@STAGES
def publish(
    run: Path, out: Path | None, to: str | None, licence: str, private: bool, half: bool, stages: tuple[int, ...]
) -> None:
    """Write a folder with the model card, weights, scores, videos and report of the finished run RUN.

    The videos are those that blip-rl render wrote.
    """
    from blip_rl.api import sharing

    written = sharing.publish(run, out=out, to=to, licence=licence, private=private, stages=stages or None, half=half)
    click.echo(f"{written.path}  {written.size / 1e6:,.1f} MB; the card is {written.path / 'README.md'}")
    if written.address is not None:
        click.echo(f"pushed to {written.address}\nload  br.load('hf:{to}')")
    elif out is not None:  # publish would not replace it
        click.echo(f"push  {written.upload}\nname  USER/NAME is in {written.path / 'README.md'}, too: replace it there")
    else:
        chosen = [word for number in stages for word in ("--stage", str(number))]
        chosen += ["--licence", licence] if licence != "mit" else []
        chosen += ["--private"] if private else []
        chosen += ["--half"] if half else []
        click.echo(f"push  {shell_command('blip-rl', 'publish', run, *chosen)} --to USER/NAME")
