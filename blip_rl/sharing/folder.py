"""Write the folder that is published: the parts of a run that play and document it, with a model card."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from blip_rl.config import RunConfig
from blip_rl.errors import UserError
from blip_rl.recipes import load_run_config
from blip_rl.reporting.checkpoints import read_metadata
from blip_rl.reporting.page import write_report
from blip_rl.reporting.scores import load_scores
from blip_rl.sharing.card import CardContent, model_card
from blip_rl.sharing.players import write_player
from blip_rl.storage import atomic
from blip_rl.storage.integrity import TABLES
from blip_rl.storage.run_folder import RunFolder
from blip_rl.untrusted.files import check_contained, read_json

FILES = ("config.toml", "command.txt", "environment.json", *TABLES)
"""Files of a run beside its checkpoints that are published and downloaded, where they exist."""
STAGE_FILES = ("policy.safetensors", "method.safetensors", "stage.json", "digests.json")
"""Files of a checkpoint."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,49}")
UNNAMED = "USER/NAME"


def publish_folder(
    run: Path,
    out: Path,
    *,
    name: str | None,
    licence: str,
    stages: Sequence[int] | None,
    half: bool,
    replace: bool,
) -> Path:
    """Write a folder that is ready for the Hugging Face Hub.

    Args:
        run: A finished run.
        out: The folder to create.
        name: ``user/name`` on the Hub, for the card; None: ``USER/NAME``, to be replaced.
        licence: Identifier of the licence of the weights.
        stages: Stages whose checkpoints are included; None: all.
        half: Include players, see :mod:`blip_rl.sharing.players`, instead of the checkpoints themselves, and neither
            report nor videos.
        replace: Whether ``out`` may exist and is replaced.

    Returns:
        ``out``.

    Raises:
        UserError: The run is unfinished or damaged, a stage has no checkpoint, or ``licence`` is no identifier.
            Nothing is written then.
        OSError: The folder cannot be written; nothing is left of it, and one that it would have replaced stays.
    """
    if not _LICENCE.fullmatch(licence):
        raise UserError(f"licence {licence[:80]!r}: expected an identifier of the Hub, such as mit or cc-by-4.0")
    folder = RunFolder.existing(run)
    check_contained(run)
    config = load_run_config(folder.config)
    chosen = _chosen_stages(folder, config, stages)
    scores, rows = load_scores(run), folder.read_scores()  # of the run, whose file a message about a damaged row names
    with atomic.new_folder(out) as beside:
        for file in FILES:
            if (run / file).is_file():
                shutil.copyfile(run / file, beside / file)
        (beside / "checkpoints").mkdir()
        players = {}
        for stage in chosen:
            copy = beside / "checkpoints" / folder.stage_path(stage).name
            if half:
                players[stage] = str(write_player(run, config, stage, copy))
            else:
                _copy_stage(folder.stage_path(stage), copy)
        films = [] if half else _copy_films(run, beside)
        picture = _write_report(beside, page=not half)
        content = CardContent(
            config=config,
            scores=scores,
            rows=rows,
            command=_command(folder),
            licence=licence,
            name=name or UNNAMED,
            films=films,
            picture=picture,
            version=_version(run),
            env_steps=read_metadata(folder.stage_path(config.stages)).env_steps or config.total_steps,
            players=players,
        )
        (beside / "README.md").write_text(model_card(content), encoding="utf-8")
        if replace:
            _remove_old(out, beside)
    return out


def _remove_old(out: Path, new: Path) -> None:
    """Remove a folder only once the one that replaces it is complete and on the disk."""
    for file in new.rglob("*"):
        atomic.flush(file)
    atomic.remove(out)


def _chosen_stages(folder: RunFolder, config: RunConfig, stages: Sequence[int] | None) -> list[int]:
    """Return the stages to publish, whose checkpoints are undamaged."""
    found = folder.stages()
    if not folder.finished(config.stages):
        raise UserError(
            f"'{folder.path}' is not finished: expected a run whose last stage is learned (blip-rl train --resume)"
        )
    for stage in stages or ():
        if stage not in found:
            raise UserError(f"stage {stage} has no checkpoint: expected one of {', '.join(map(str, found))}")
    chosen = [stage for stage in found if stages is None or stage in stages]
    for stage in chosen:
        try:
            atomic.check_folder(folder.stage_path(stage))
        except atomic.DamagedError as error:
            raise UserError(str(error)) from error
    return chosen


def _copy_stage(stage: Path, copy: Path) -> None:
    copy.mkdir()
    for file in STAGE_FILES:
        shutil.copyfile(stage / file, copy / file)


def _copy_films(run: Path, copy: Path) -> list[str]:
    """Copy what ``render`` wrote; return the paths, the grid of all games first."""
    films = sorted((run / "gifs").glob("*.*"), key=lambda path: ("grid" not in path.name, path.name))
    films = [path for path in films if path.suffix in (".gif", ".webp", ".mp4") and path.is_file()]
    if films:
        (copy / "gifs").mkdir()
    for film in films:
        shutil.copyfile(film, copy / "gifs" / film.name)
    return [f"gifs/{film.name}" for film in films if film.suffix != ".mp4"]


def _write_report(folder: Path, *, page: bool) -> str:
    """Write the report page and the picture of the score matrix; return the picture's name, or an empty string.

    Args:
        folder: The folder.
        page: Whether the page is included.
    """
    with tempfile.TemporaryDirectory() as made:
        written = write_report([folder], out=Path(made))
        if page:
            shutil.copyfile(written.page, folder / "report.html")
        for found in sorted(written.pictures.glob("matrix-*.png")):  # matrix-normalised before matrix-raw
            shutil.copyfile(found, folder / "scores.png")
            return "scores.png"
    return ""


def _command(folder: RunFolder) -> str:
    with suppress(UserError):
        return folder.command().strip()
    return "unknown"


def _version(run: Path) -> str:
    with suppress(UserError, LookupError, TypeError):
        found: Any = read_json(run / "environment.json")
        return str(found["versions"]["blip-rl"])[:40]
    return "of an unknown version"


def total_bytes(folder: Path) -> int:
    """Return the size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
