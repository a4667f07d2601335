"""``blip-rl report`` of a sweep: groups in the order of the plan, without runs that have left it."""

import re
import shutil

import pytest

from blip_rl.api.viewing import report
from blip_rl.errors import UserError
from blip_rl.sweeps.manifest import save_manifest
from tests.reporting.conftest import sketches
from tests.reporting.report_runs import make_run
from tests.sweeps.small_sweeps import small_manifest

__all__ = ["sketches"]


@pytest.mark.usefixtures("sketches")
def test_a_sweep_is_compared_by_agent_and_value_of_the_grid(tmp_path):
    grid = {"agents": "l2,ewc", "seeds": "0-2", "agent": {"ewc": {"grid": {"method.strength": [10, 1]}}}}
    manifest = small_manifest(**grid)
    save_manifest(tmp_path, manifest)
    for run in manifest.runs:
        config = manifest.config(run)
        make_run(tmp_path / run.name, agent=config.agent_name, seed=run.seed, settings={"method": config.agent.method},
                 games=("kungfu", "boxing"), bits=False, logs=False)  # fmt: skip
    make_run(tmp_path / "left-the-plan-seed0", agent="finetune", games=("kungfu", "boxing"), bits=False, logs=False)
    written = report(tmp_path)
    assert written.page == tmp_path / "report.html"
    page = written.page.read_text(encoding="utf-8")
    assert re.findall(r'<th scope="row">([^<]*)<small>recipe', page) == [
        "l2",
        "ewc, strength=10.0",
        "ewc, strength=1.0",
    ]
    assert re.search(r">ewc, strength=10\.0<small>− l2<", page)
    assert "finetune" not in page
    shutil.rmtree(tmp_path / manifest.runs[0].name)  # not begun yet
    assert report(tmp_path).problems == ()


def test_a_sweep_without_runs_has_nothing_to_report(tmp_path):
    save_manifest(tmp_path, small_manifest())
    with pytest.raises(UserError, match="has no run yet: start it first"):
        report(tmp_path)
