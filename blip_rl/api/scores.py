"""Scores as a table of typed rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

from blip_rl.errors import UserError

if TYPE_CHECKING:
    from blip_rl.records import ScoreRow


class Scores(Sequence["ScoreRow"]):
    """Scores of evaluation episodes: a sequence of :class:`~blip_rl.records.ScoreRow`, one for each episode.

    Attributes:
        summary: The mean scores by stage and game as text; empty for scores that were read from a run folder.
    """

    def __init__(self, rows: Iterable[ScoreRow], summary: str = "") -> None:
        self._rows = tuple(rows)
        self.summary = summary

    @overload
    def __getitem__(self, index: int) -> ScoreRow: ...
    @overload
    def __getitem__(self, index: slice) -> Scores: ...
    def __getitem__(self, index: int | slice) -> ScoreRow | Scores:
        return Scores(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        games = ", ".join(dict.fromkeys(row.task for row in self._rows)) or "none"
        return f"<Scores: {len(self):,} episodes; games: {games}>"

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame`` with the columns of ``scores.csv``.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                "to_pandas() needs pandas, which is not installed: pip install pandas, or use the rows as they are "
                "(for row in scores: row.task, row.stage, row.score)"
            ) from error
        from blip_rl.records import ScoreRow, columns

        names = columns(ScoreRow)
        attributes = ["score" if name == "return" else name for name in names]
        return pandas.DataFrame([[getattr(row, a) for a in attributes] for row in self._rows], columns=names)
