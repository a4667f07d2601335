"""Read all data that the report shows of one run, and record what is missing or damaged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from blip_rl.errors import UserError, first_problem
from blip_rl.records import MAX_BITS, PlasticityRow, ReturnRow, SpeedRow, Steps
from blip_rl.report.bits import BitBudget, load_budget
from blip_rl.report.checkpoints import Information, load_information, read_metadata, stage_folders
from blip_rl.report.scores import RunScores, load_config, load_scores
from blip_rl.report.table import load_plasticity, load_rows
from blip_rl.untrusted.files import check_contained, read_json, read_text

_SIGNS = ("config.toml", "scores.csv", "bits.csv", "checkpoints")
_DEFAULT_TOTAL_BITS = 20
_DAMAGED_NAMED = 3
_LONGEST_TITLE = 16  # characters that fit above a column of a chart
_LONGEST_REFERENCE = 80


def shown_title(name: str, title: str) -> str:
    """Return the display name of a task: its title, or its name if the title is empty or too long for a chart."""
    return title if title and len(title) <= _LONGEST_TITLE else name


class Task(BaseModel, frozen=True):
    """One task of a recipe; unknown keys are ignored, since recipes of other versions may have them.

    Attributes:
        name: Key in the run's tables.
        title: Display name, see :func:`shown_title`.
        steps: Training steps.
        random_score: Return of random play; None if the recipe has none.
        reference_score: Return that is normalised to 1; None if the recipe has none.
        reference_name: Who reached ``reference_score``; may be empty.
    """

    name: str
    title: str = Field("", validate_default=True)
    steps: Steps = 0
    random_score: float | None = None
    reference_score: float | None = None
    reference_name: Annotated[str, AfterValidator(lambda name: name[:_LONGEST_REFERENCE])] = ""

    @field_validator("title")
    @classmethod
    def _fits_a_chart(cls, title: str, others: ValidationInfo) -> str:
        return shown_title(others.data.get("name", ""), title)

    @property
    def has_normalisers(self) -> bool:
        """Whether returns can be normalised."""
        return self.random_score is not None and self.reference_score is not None


_TASKS = TypeAdapter(tuple[Task, ...])


@dataclass(frozen=True)
class RunRecord:
    """Contents of one run folder, as far as they can be read.

    Attributes:
        path: The folder.
        config: ``config.toml``; empty if it cannot be read.
        tasks: In training order.
        scores: None if they cannot be read.
        budget: None if no bits were frozen.
        information: Fisher information recorded with the checkpoints.
        plasticity: Rows of ``plasticity.csv``; empty if not recorded.
        speed: Rows of ``speed.csv``; empty if not recorded.
        returns: Rows of ``returns.csv``; empty if not recorded.
        command: Command line that started the run; empty if unknown.
        environment: Versions, machine, commit; empty if unknown.
        changed: Time of the last change to the folder.
        problems: Messages about missing or damaged files.
        finished_steps: Training steps of a run whose last stage is saved, scored or not; None for other runs.
    """

    path: Path
    config: dict[str, Any]
    tasks: tuple[Task, ...]
    scores: RunScores | None
    budget: BitBudget | None
    information: Information
    plasticity: tuple[PlasticityRow, ...]
    speed: tuple[SpeedRow, ...]
    returns: tuple[ReturnRow, ...]
    command: str
    environment: dict[str, Any]
    changed: datetime
    problems: tuple[str, ...]
    finished_steps: int | None = None

    @property
    def agent(self) -> str:
        """Name of the agent recipe."""
        return str(self.config.get("agent_name", "unknown agent"))

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def settings(self) -> dict[str, Any]:
        """The agent's settings, nested as in the recipe."""
        return subtable(self.config, "agent")

    @property
    def total_bits(self) -> int:
        """N of the method: the upper end of every scale of frozen bits."""
        total = subtable(self.settings, "method").get("total_bits", _DEFAULT_TOTAL_BITS)
        return total if isinstance(total, int) and 1 <= total <= MAX_BITS else _DEFAULT_TOTAL_BITS

    @cached_property
    def learned(self) -> int:
        """Number of learned tasks: the last stage with a score after its consolidation."""
        if self.scores is None:
            return 0
        rows = np.flatnonzero(np.isfinite(self.scores.after).any(axis=1))
        return int(rows[-1]) + 1 if rows.size else 0

    @cached_property
    def boundaries(self) -> dict[int, int]:
        """Stage → training steps of the whole run at its end, for finished stages."""
        ends: dict[int, int] = {}
        for curve in self.scores.curves if self.scores else ():
            for stage in range(1, self.learned + 1):
                steps = curve.env_steps[curve.stages == stage]
                if steps.size:
                    ends[stage] = max(int(steps[-1]), ends.get(stage, 0))
        return ends

    @property
    def env_steps(self) -> int:
        """Highest number of training steps in any table or checkpoint of the run."""
        ends = [int(curve.env_steps[-1]) for curve in (self.scores.curves if self.scores else ()) if curve.stages.size]
        logged = [row.env_steps for table in (self.speed, self.plasticity, self.returns) for row in table]
        return max([self.finished_steps or 0, *ends, *logged])

    @property
    def planned_steps(self) -> int:
        """Steps of all tasks."""
        return sum(task.steps for task in self.tasks)

    @property
    def complete(self) -> bool:
        """Whether the last task was learned: scored, or saved without scores as by ``blip-rl import``."""
        return bool(self.tasks) and (self.learned == len(self.tasks) or self.finished_steps is not None)


def is_run(path: Path) -> bool:
    """Return whether a folder contains any file that identifies a run."""
    return any((path / name).exists() for name in _SIGNS)


def load_run(path: Path) -> RunRecord:
    """Read a run folder; report missing and damaged files in ``RunRecord.problems``.

    Raises:
        UserError: The folder is not a run folder, or a link in it points outside.
    """
    if not is_run(path):
        raise UserError(
            f"'{path}' is not a run folder: it has none of {', '.join(_SIGNS)} (blip-rl train creates run folders)"
        )
    check_contained(path)
    problems: list[str] = []
    config = _read_config(path, problems)
    tasks = _tasks(config, problems)
    scores = _read_scores(path, problems) if config else None
    return RunRecord(
        path=path,
        config=config,
        tasks=tasks,
        scores=scores,
        budget=load_budget(path, problems),
        information=load_information(path),
        plasticity=load_plasticity(path, problems),
        speed=load_rows(path / "speed.csv", SpeedRow, problems, optional=True),
        returns=load_rows(path / "returns.csv", ReturnRow, problems, optional=True),
        command=_read_text(path / "command.txt", problems).strip(),
        environment=_read_environment(path / "environment.json", problems),
        changed=_last_change(path),
        problems=tuple(problems),
        finished_steps=_finished_steps(path, len(tasks)),
    )


def _read_config(run: Path, problems: list[str]) -> dict[str, Any]:
    without = "without it the games and their scores are unknown"
    if not (run / "config.toml").is_file():
        problems.append(f"config.toml is missing: {without}")
        return {}
    try:
        config = load_config(run)
    except UserError as error:
        problems.append(_without_folder(f"{error}; {without}", run))
        return {}
    if not config:
        problems.append(f"config.toml is empty: {without}")
    return config


def _read_scores(run: Path, problems: list[str]) -> RunScores | None:
    damaged: list[str] = []
    try:
        scores = load_scores(run, damaged)
    except UserError as error:
        problems.append(_without_folder(str(error), run))
        return None
    problems.extend(_without_folder(damage, run) for damage in damaged[:_DAMAGED_NAMED])
    if len(damaged) > _DAMAGED_NAMED:
        problems.append(f"scores.csv: {len(damaged) - _DAMAGED_NAMED} more damaged lines skipped")
    return scores


def _without_folder(message: str, run: Path) -> str:
    return message.replace(f"{run}/", "")


def _tasks(config: dict[str, Any], problems: list[str]) -> tuple[Task, ...]:
    try:
        return _TASKS.validate_python(config.get("tasks", ()))
    except ValidationError as error:
        problems.append(f"config.toml: its tasks cannot be read ({first_problem(error)})")
        return ()


def _read_text(path: Path, problems: list[str]) -> str:
    try:
        return read_text(path, errors="replace")
    except UserError:
        problems.append(f"{path.name} is missing or cannot be read")
        return ""


def _read_environment(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        facts = read_json(path)
    except UserError as error:
        problems.append(str(error).replace(f"'{path}'", path.name))
        return {}
    return facts if isinstance(facts, dict) else {}


def _finished_steps(run: Path, stages: int) -> int | None:
    """Return the training steps in the last stage's checkpoint; None without it or with a snapshot to resume."""
    last = stage_folders(run).get(stages)
    if last is None or any((run / "checkpoints").glob("step-*")):
        return None
    try:
        return read_metadata(last).env_steps
    except UserError:
        return None


def _last_change(run: Path) -> datetime:
    times = [path.stat().st_mtime for name in _SIGNS if (path := run / name).exists()]
    try:
        return datetime.fromtimestamp(max(times), UTC)
    except (ValueError, OverflowError, OSError):  # a file's modification time may be out of range
        return datetime.fromtimestamp(0, UTC)


def subtable(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table of an untrusted recipe; empty if it has none."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}
