"""Publish a run on the Hugging Face Hub, or as a folder for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blip_rl.api import arguments
from blip_rl.api.loading import loading
from blip_rl.errors import UserError

_FOLDER = "hub"


@dataclass(frozen=True)
class Published:
    """What :func:`publish` wrote.

    Attributes:
        path: The folder, with ``README.md``; :func:`~blip_rl.load` opens it as a run.
        size: Bytes of all its files.
        address: Address on the Hub; None if it was not pushed.
        upload: Command that pushes the folder to ``USER/NAME`` on the Hub.
    """

    path: Path
    size: int
    address: str | None
    upload: str


def publish(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    to: str | None = None,
    licence: str = "mit",
    private: bool = False,
    stages: Sequence[int] | None = None,
    half: bool = False,
) -> Published:
    """Write a folder of a run with a model card for the Hugging Face Hub, and push it if ``to`` is given.

    The folder has the weights as safetensors, the recipe, the command, the scores, the report and the videos that
    ``render`` wrote. It is a run folder itself, without snapshots and TensorBoard events.

    Args:
        run: A finished run.
        out: Folder to create; None: ``hub`` in the run folder, which is replaced.
        to: ``user/name`` on the Hub: push the folder there. Needs the extra ``hub`` and a token with write access.
        licence: Licence of the weights, as the Hub names it.
        private: Whether a new repository is private.
        stages: Stages whose checkpoints are included; None: all.
        half: Include only what playing needs: neither report nor videos, checkpoints without the state that the method
            needs for another game, and float16 weights wherever the policies stay the same, which is checked on states
            of the evaluation's games.

    Raises:
        UserError: An argument is invalid, the run is unfinished or damaged, or the package or a token for ``to`` is
            missing. Nothing is written.
        RunError: The folder is written, but could not be pushed.
    """
    from blip_rl.storage.paths import check_new_folder, check_run, check_writable_folder

    folder, target = arguments.path("run", run), arguments.optional_path("out", out)
    for name, value in (("to", to if to is not None else ""), ("licence", licence)):
        if not isinstance(value, str):
            raise UserError(f"{name} = {arguments.shown(value)}: expected text")
    arguments.flag("private", private)
    arguments.flag("half", half)
    chosen = arguments.stage_numbers(stages)
    check_run(folder)
    if target is None:
        check_writable_folder(folder / _FOLDER)
    else:
        check_new_folder(target)
    with loading():
        from blip_rl.sharing import hub
        from blip_rl.sharing.folder import UNNAMED, publish_folder, total_bytes
    if to is not None:
        hub.check_can_push(to)
    written = publish_folder(
        folder, target or folder / _FOLDER, name=to, licence=licence, stages=chosen, half=half, replace=target is None
    )
    address = None if to is None else hub.push(written, to, private=private)
    upload = hub.upload_command(written, to or UNNAMED, private=private)
    return Published(written, total_bytes(written), address, upload)
