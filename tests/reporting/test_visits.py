"""Tests of reports of runs in which games come back, against values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tomli_w

from blip_rl.errors import UserError
from blip_rl.records import ReturnRow, columns
from blip_rl.reporting.audit import Audit, Violations
from blip_rl.reporting.groups import accumulated_series, group_runs, training_lines
from blip_rl.reporting.inspection import inspect_run
from blip_rl.reporting.inspection_text import inspection_text
from blip_rl.reporting.page import write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.scores import load_config, load_scores
from blip_rl.reporting.sections import _own_training
from blip_rl.reporting.sections_cost import training_seconds
from blip_rl.reporting.sequences import differences
from blip_rl.reporting.stage_values import stage_values
from blip_rl.reporting.summary_metrics import metric_estimate, shown_metrics, stage_plasticity, stage_transfer
from blip_rl.reporting.visits import cycle_length
from tests.reporting import report_runs as made

pytestmark = pytest.mark.usefixtures("sketches")

NAN = np.nan
# Kung-Fu, Boxing, Kung-Fu; 1,000 steps each. (steps, stage, phase, kungfu, boxing), normalised.
BLIP = [
    (0, 1, "start", 0.0, None),
    (500, 1, "periodic", 0.4, None),
    (1000, 1, "after", 0.8, None),
    (1000, 2, "start", None, 0.0),
    (1500, 2, "periodic", 0.2, 0.3),
    (2000, 2, "before", 0.5, 0.6),
    (2000, 2, "after", 0.5, 0.6),
    (2500, 3, "periodic", 0.8, 0.1),
    (3000, 3, "before", 0.9, 0.4),
    (3000, 3, "after", 0.9, 0.4),
]
SINGLE = [
    (0, 1, "start", 0.0, None),
    (500, 1, "periodic", 0.2, None),
    (1000, 1, "after", 0.4, None),
    (1000, 2, "start", None, 0.0),
    (1500, 2, "periodic", 0.4, 0.3),
    (2000, 2, "after", 0.4, 0.6),
    (2500, 3, "periodic", 0.6, 0.6),
    (3000, 3, "after", 0.6, 0.6),
]


def edit(run, **changes):
    config = load_config(run) | changes
    (run / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    return run


def visited(path, scores=BLIP, method="blip", seed=0, bare=()):
    """Write a run that visits Kung-Fu twice; games in ``bare`` have no normalisers."""
    games = ("kungfu", "boxing")
    run = made.make_run(
        path, agent=method, seed=seed, games=games, settings={"method": {"name": method, "total_bits": 20}}
    )
    tasks = load_config(run)["tasks"]
    for task in tasks:
        if task["name"] in bare:
            del task["reference_score"]
    edit(run, order=["kungfu", "boxing", "kungfu"], tasks=tasks)
    rows = []
    for steps, stage, phase, *values in scores:
        for game, value in zip(games, values, strict=True):
            if value is not None:
                normal = "" if game in bare else value
                rows.append([steps, stage, phase, game, 0, 10 * value, 9, 0, normal, "greedy"])
    made.write_table(run / "scores.csv", made.SCORE_COLUMNS, rows)
    returns = [
        [500, 1, "kungfu", 2, 1],
        [1500, 2, "boxing", 1, 4],
        [2000, 2, "boxing", 3, 8],
        [3000, 3, "kungfu", 1, 5],
    ]
    made.write_table(run / "returns.csv", columns(ReturnRow), returns)
    return run


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_stage_values_by_hand(tmp_path):
    record = load_run(visited(tmp_path / "r"))
    assert record.problems == ()
    values = stage_values(record)
    same(values.learned, [0.8, 0.6, 0.9])
    same(values.forgotten, [NAN, NAN, 0.8 - 0.5])
    same(values.relearning_steps, [NAN, NAN, 500])
    same(values.stability_gap, [0.8 - 0.2, 0.6 - 0.1, NAN])
    same(values.area, [0.4, 0.3, (0.65 + 0.85) / 2])  # the second visit starts at 0.5, the score before it
    same(values.training_return, [1, (4 + 3 * 8) / 4, 5])


def test_summary_metrics_of_visits_by_hand(tmp_path):
    runs = [load_run(visited(tmp_path / "r")), load_run(visited(tmp_path / "s", SINGLE, "single"))]
    group, single = group_runs(runs)
    expected = {
        "ACC": 0.65,
        "BWT": 0.4 - 0.6,
        "Forgetting": 0.2,
        "Stability gap": (0.6 + 0.5) / 2,
        "Last-cycle sum": 7 + 5,
        "Forward transfer": (0.25 + 0 + 0.2 / 0.45) / 3,
        "Plasticity": (2 + 1 + 1.5) / 3,
    }
    for name, value in expected.items():
        assert metric_estimate(group, name).centre == pytest.approx(value), name
    same(stage_transfer(runs[0], group), [(0.4 - 0.2) / 0.8, 0, (0.75 - 0.55) / 0.45])
    same(stage_plasticity(runs[0], group), [0.8 / 0.4, 1, 0.9 / 0.6])
    assert np.isnan(metric_estimate(single, "Forward transfer").centre)
    assert shown_metrics([group, single])[-2:] == ["Forward transfer", "Plasticity"]
    assert "Forward transfer" not in shown_metrics(group_runs(runs[:1]))


def test_page_has_a_row_for_each_visit_and_the_worst_game(tmp_path):
    runs = [visited(tmp_path / "r"), visited(tmp_path / "s", SINGLE, "single")]
    html = write_report(runs, out=tmp_path / "out").page.read_text(encoding="utf-8")
    assert "Kung-Fu Master → Boxing → Kung-Fu Master" in html
    assert "Kung-Fu Master (visit 2): Kung-Fu Master 0.900, Boxing 0.400" in html
    table = html.partition('<section id="stages"')[2].partition("</section>")[0]
    rows = [row.partition("</th>")[0] for row in table.split('<th scope="row">')[1:4]]
    assert rows == ["Kung-Fu Master (visit 1)", "Kung-Fu Master (visit 2)", "Boxing (visit 1)"]
    for cell in ("0.900<small>return 9.00", "+0.300", "500", "+0.600", "+0.444", "1.50"):
        assert f"<td>{cell}</" in table, cell
    assert "worst game: 0.400" in html
    assert "worst game: −0.200" in html
    assert "the runs to compare with" in html


def test_steps_to_relearn_are_over_the_seeds_that_relearned(tmp_path):
    never = [(*row[:3], 0.7 if row[1] == 3 else row[3], row[4]) for row in BLIP]
    runs = [visited(tmp_path / "a", seed=0), visited(tmp_path / "b", never, seed=1)]
    html = write_report(runs, out=tmp_path / "out").page.read_text(encoding="utf-8")
    assert "<td>500<small>1 of 2 seeds</small></td>" in html
    html = write_report(runs[1:]).page.read_text(encoding="utf-8")
    assert "<td>never<small>within 1k</small></td>" in html


def test_game_without_normalisers_is_named_and_the_rest_is_kept(tmp_path):
    run = visited(tmp_path / "r", bare=("boxing",))
    html = write_report([run]).page.read_text(encoding="utf-8")
    assert "Boxing (visit 1)<small>raw returns: not normalised</small>" in html
    values = stage_values(load_run(run))
    same(values.learned, [0.8, 6, 0.9])
    same(values.area, [0.4, NAN, 0.75])
    (group,) = group_runs([load_run(run)])
    assert metric_estimate(group, "ACC").centre == pytest.approx(0.9)
    assert metric_estimate(group, "Stability gap").centre == pytest.approx(0.6)


def test_running_run_is_reported_up_to_its_last_visit(tmp_path):
    run = visited(tmp_path / "r", [row for row in BLIP if row[1] < 3])
    record = load_run(run)
    assert (record.learned, record.complete, record.planned_steps) == (2, False, 3000)
    same(stage_values(record).stability_gap, [0.6, NAN, NAN])
    html = write_report([run]).page.read_text(encoding="utf-8")
    assert "So far: after 2 of 3 visits." in html
    assert "2 of 3 visits learned" in html


def test_curves_go_on_through_later_visits(tmp_path):
    (group,) = group_runs([load_run(visited(tmp_path / "r"))])
    assert group.first.boundaries == {1: 1000, 2: 2000, 3: 3000}
    ((steps, total),) = accumulated_series(group, 0).lines
    assert steps.tolist() == [0, 500, 1000, 1500, 2000, 2500, 3000]
    same(total, [0.0, 0.4, 0.8, 0.5, 1.1, 0.9, 1.3])
    visits = training_lines(group, "kungfu")
    assert [steps.tolist() for steps, _ in visits] == [[500], [3000]], "a line for each visit"


def test_inspection_names_visits(tmp_path):
    text = inspection_text(inspect_run(visited(tmp_path / "r")))
    assert "learns kungfu, boxing in 3 visits" in text
    assert "after kungfu (visit 1)" in text


def test_inspection_of_many_stages_has_a_row_for_each(tmp_path):
    run = edit(made.make_run(tmp_path / "c", stages=9), cycles=3)
    found = inspect_run(run)
    text = inspection_text(found)
    assert "in 9 visits, 3 cycles" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("  after ")]
    assert len(rows) == 9
    assert rows[-1] == ["after", "krull", "(visit", "3)", "18.5", "/", "1.5", "18.5", "/", "1.5", "18.5", "/", "1.5"]
    pairs = [Violations(a, b, 10, 0, 0.0, 1) for a in range(1, 10) for b in range(a + 1, 10)]
    text = inspection_text(replace(found, audit=Audit(tuple(range(1, 10)), 10, tuple(pairs))))
    assert "stages 1 to 9)" in text
    assert sum(line.endswith("10.00%") for line in text.splitlines()) == 8, "compared with the newest stage"
    assert "28 more pairs of stages" in text
    text = inspection_text(
        replace(found, audit=Audit((1, 2), 10, (replace(pairs[0], left=2, furthest=3.0), *pairs[1:])))
    )
    assert "35 more pairs" in text


def test_runs_with_another_order_are_not_comparable(tmp_path):
    first, other = (
        load_config(made.make_run(tmp_path / "a")),
        load_config(edit(made.make_run(tmp_path / "b"), cycles=2)),
    )
    assert differences(first, other) == ["order of visits"]
    assert differences(first, {**first, "order": [], "cycles": 1}) == []


def test_cycles_are_found_in_the_order_of_visits():
    assert [cycle_length(visits) for visits in ((0, 1, 0, 1), (0, 1, 0), (0,), (0, 0, 0), ())] == [2, 3, 1, 1, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cycles": 0},
        {"cycles": 10**18},
        {"cycles": True},
        {"cycles": 126},  # of two tasks: 252 visits
        {"order": ["kungfu"]},
        {"order": ["kungfu", "pong", "boxing"]},
        {"order": ["boxing", "kungfu"]},
        {"order": ["kungfu", "boxing"] * 200},
        {"order": "kungfu"},
    ],
    ids=str,
)
def test_invalid_order_is_named_and_the_rest_is_shown(tmp_path, wrong):
    run = made.make_run(tmp_path / "r", games=("kungfu", "boxing"), logs=False)
    edit(run, **wrong)
    for read in (load_scores, inspect_run):
        with pytest.raises(UserError, match=r"config\.toml' is not a resolved recipe \(.*(order|cycles)"):
            read(run)
    files = write_report([run])
    assert any("is not a resolved recipe" in problem for _, problem in files.problems)


def test_games_learned_together_have_no_row(tmp_path):
    runs = [made.make_run(tmp_path / "m", agent="multitask", together=True, bits=False, logs=False)]
    runs += [made.make_run(tmp_path / "s", agent="single", settings={"method": {"name": "single"}}, logs=False)]
    html = write_report(runs[:1]).page.read_text(encoding="utf-8")
    assert "No game has been scored just after its training." in html
    html = write_report(runs, out=tmp_path / "out").page.read_text(encoding="utf-8")
    summary = html.partition('<section id="summary"')[2].partition("</section>")[0]
    # BWT, forgetting, stability gap, forward transfer, plasticity
    assert summary.count("the games were learned together") == 5
    assert "undefined for a game" not in summary


def test_games_learned_together_have_a_cost_and_no_training_of_their_own(tmp_path):
    """One stage, whose number is that of the games; also before its end, when there are no scores."""
    settings = {"method": {"name": "multitask"}}
    path = made.make_run(tmp_path / "m", agent="multitask", together=True, bits=False, settings=settings)
    for run in (load_run(path), replace(load_run(path), scores=None)):
        (row,) = run.speed
        assert training_seconds(run) == pytest.approx(row.env_steps / row.steps_per_second)
        assert [_own_training(at, run) for at in range(3)] == [[], [], []]
