"""The tasks of a run, from its ``config.toml``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from blip_rl.errors import first_problem
from blip_rl.records import Steps
from blip_rl.reporting.visits import NamedTask

_LONGEST_TITLE = 22  # characters: "after TITLE" then fits beside a row of a chart
_LONGEST_REFERENCE = 80
_MOST_SCORES = 8  # columns of a table that fit on a page

Shortened = Annotated[str, AfterValidator(lambda name: name[:_LONGEST_REFERENCE])]


def shown_title(name: str, title: str) -> str:
    """Return the display name of a task: its title, or its name if the title is empty or too long for a chart."""
    return title if title and len(title) <= _LONGEST_TITLE else name


class Task(NamedTask, frozen=True):
    """One task of a recipe; unknown keys are ignored, since recipes of other versions may have them.

    Attributes:
        title: Display name, see :func:`shown_title`.
        steps: Training steps.
        random_score: Return of random play; None if the recipe has none.
        reference_score: Return that is normalised to 1; None if the recipe has none.
        reference_name: Who reached ``reference_score``; may be empty.
        human_score: Published return of a human; None if the recipe has none.
        other_scores: Further published returns by their names.
    """

    title: str = Field("", validate_default=True)
    steps: Steps = 0
    random_score: float | None = None
    reference_score: float | None = None
    reference_name: Shortened = ""
    human_score: float | None = None
    other_scores: Annotated[dict[Shortened, float], Field(max_length=_MOST_SCORES)] = Field(default_factory=dict)

    @field_validator("title")
    @classmethod
    def _fits_a_chart(cls, title: str, others: ValidationInfo) -> str:
        return shown_title(others.data.get("name", ""), title)

    @property
    def has_normalisers(self) -> bool:
        """Whether returns can be normalised."""
        return self.random_score is not None and self.reference_score is not None


_TASKS = TypeAdapter(tuple[Task, ...])


def read_tasks(config: dict[str, Any], problems: list[str]) -> tuple[Task, ...]:
    """Return the tasks of ``config.toml``; none if they cannot be read, with a message in ``problems``."""
    try:
        return _TASKS.validate_python(config.get("tasks", ()))
    except ValidationError as error:
        problems.append(f"config.toml: its tasks cannot be read ({first_problem(error)})")
        return ()
