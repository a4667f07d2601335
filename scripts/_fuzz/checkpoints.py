"""Target: checkpoints of stages and snapshots with mutated files, which are loaded, played and inspected."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from _fuzz import change, tensors
from _fuzz.canary import Canaries
from _fuzz.folders import NO_LONGER_WHAT_IT_WAS
from _fuzz.runs import METHODS, Files, redigest, unfinished_run, write
from blip_rl.config import EvaluationConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import Cell
from blip_rl.evaluation.rescore import ScoringPlayer
from blip_rl.recipes import load_run_config
from blip_rl.reporting.audit import audit_run
from blip_rl.reporting.bits import load_bit_maps
from blip_rl.reporting.checkpoints import open_checkpoints
from blip_rl.storage import atomic
from blip_rl.storage import snapshot as snapshots


class Checkpoints:
    """A run of each kind of method; in each input one or two files of a stage or snapshot are mutated."""

    def __init__(self, folder: Path, canaries: Canaries) -> None:
        self._folder, self._canaries = folder / "run", canaries
        self._runs = [unfinished_run(folder / "seed", agent) for agent in METHODS]

    def attempt(self, draw: random.Random) -> None:
        """Read one checkpoint in every way that its kind can be read."""
        files = {name: content for name, content in draw.choice(self._runs).items() if _is_needed(name)}
        folders = sorted({name.rpartition("/")[0] for name in files if "/" in name})
        chosen = draw.choice(folders)
        for _ in range(draw.choice((1, 1, 2))):
            self._change(draw, files, chosen)
        if draw.random() < 0.9:
            redigest(files)
        write(files, self._folder)
        if "stage" in chosen:
            self._read_stage()
        else:
            try:
                snapshots.load(self._folder / chosen)
            except atomic.DamagedError as error:
                raise UserError(str(error)) from error

    def _change(self, draw: random.Random, files: Files, folder: str) -> None:
        name = draw.choice(sorted(name for name in files if name.startswith(folder)))
        if draw.random() < 0.05:
            files[name] = draw.choice(self._canaries.files)
            return
        way = change.json_text if name.endswith(".json") else tensors.tensor_file
        with contextlib.suppress(*NO_LONGER_WHAT_IT_WAS):
            files[name] = way(draw, files[name])

    def _read_stage(self) -> None:
        config = load_run_config(self._folder)
        found, problems = open_checkpoints(self._folder)
        audit_run(found, dict(config.agent.method), 20, problems)
        load_bit_maps(self._folder, problems)
        evaluation = EvaluationConfig(**{**config.evaluation.model_dump(), "max_episode_steps": 5})
        ScoringPlayer(self._folder, config, evaluation).play(Cell(1, "cartpole-a"), lambda count: None)


def _is_needed(name: str) -> bool:
    return name == "config.toml" or name.startswith("checkpoints/stage") or name.startswith("checkpoints/step")
