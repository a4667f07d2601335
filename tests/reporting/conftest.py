"""Run folders for the tests of reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from blip_rl.reporting.figures import FigureWriter
from tests.reporting.report_runs import make_run


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder: ``new_run("name", **make_run's arguments)``."""

    def make(name: str, **options: Any) -> Path:
        return make_run(tmp_path / name, **options)

    return make


@pytest.fixture
def sketches(monkeypatch):
    """Draw every figure without layout and output, which take most of the time."""

    def sketch(draw, size, theme, *, png):
        draw(Figure(figsize=size), theme)
        return b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"png"

    monkeypatch.setattr(FigureWriter, "_render", staticmethod(sketch))
