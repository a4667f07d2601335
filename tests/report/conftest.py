"""Run folders for the tests of reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import make_run


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder: ``new_run("name", **make_run's arguments)``."""

    def make(name: str, **options: Any) -> Path:
        return make_run(tmp_path / name, **options)

    return make
