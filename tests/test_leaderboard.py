"""The leaderboard from run folders made by hand: each figure against the scores written out."""

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from blip_rl.core.intervals import student_interval
from tests.reporting.report_runs import REFERENCE, make_run, score

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "leaderboard.py"
COMMAND = "blip-rl train --games kungfu,boxing,krull --out '/home/me/my runs/a' --seed 0"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("leaderboard", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        spec.loader.exec_module(module)
    return module


def sections(text):
    """Heading → agent → its cells by column, of the sections with a table."""
    found = {}
    for part in text.split("\n## ")[1:]:
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
        if rows:
            found[part.splitlines()[0]] = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    return found


def scores_at_end(seed):
    return np.array([score(3, game, seed) / REFERENCE for game in range(3)])


def test_every_figure_follows_from_the_folders(script, tmp_path):
    for seed in range(3):
        make_run(tmp_path / "study" / f"blip-{seed}", seed=seed, command=COMMAND)
    make_run(tmp_path / "study" / "single", agent="single", settings={"method": {"name": "single"}})
    make_run(tmp_path / "half", agent="ewc", stages=2)
    text, left_out = script.leaderboard([tmp_path / "study", tmp_path / "half"])
    (rows,) = sections(text).values()
    assert list(rows) == ["blip", "single"]
    row, acc = rows["blip"], [scores_at_end(seed).mean() for seed in range(3)]
    low, high = student_interval(acc)
    assert numbers(row["ACC"]) == pytest.approx([np.mean(acc), low, high], abs=2e-3)
    assert numbers(row["worst"])[0] == pytest.approx(
        np.mean([scores_at_end(seed).min() for seed in range(3)]), abs=2e-3
    )
    learned = [[score(game + 1, game, seed) / REFERENCE for game in range(3)] for seed in range(3)]
    changes = [(scores_at_end(seed) - learned[seed])[:2].mean() for seed in range(3)]
    assert numbers(row["BWT"])[0] == pytest.approx(np.mean(changes), abs=2e-3)
    # `single` has seed 0's scores; those of seed 1 and 2 just after learning are 0.01 and 0.02 higher.
    assert numbers(row["plasticity"])[0] == pytest.approx(1.01, abs=2e-3)
    assert (row["seeds"], row["commit"]) == ("3", "unknown")
    assert rows["single"]["plasticity"] == "–"
    assert left_out == [f"'{tmp_path / 'half'}': not finished"]
    assert "`blip-rl train --games kungfu,boxing,krull --seed 0`; seeds 0, 1, 2; cpu" in text
    assert "/home/me" not in text


def numbers(cell):
    return [float(part) for part in re.findall(r"[-+]?[0-9.]+", cell)]


def test_other_steps_are_another_table_and_missing_speeds_are_dashes(script, tmp_path):
    make_run(tmp_path / "a", steps=1000, logs=False)
    make_run(tmp_path / "b", steps=2000)
    text, _ = script.leaderboard([tmp_path])
    assert "1,000 steps each" in text
    assert "2,000 steps each" in text
    speeds = [line.split("|")[7].strip() for line in text.splitlines() if line.startswith("| blip")]
    assert speeds[0] == "–"
    assert float(speeds[1].replace(",", "")) > 0


def test_differences_to_an_agent_are_paired_by_seed(script, tmp_path):
    for seed in range(4):
        make_run(tmp_path / f"blip-{seed}", seed=seed)
    for seed in range(1, 5):  # by 0.3 × seed higher than the run of blip with the same seed
        path = make_run(tmp_path / f"ewc-{seed}", agent="ewc", seed=4 * seed, settings={"method": {"name": "ewc"}})
        config = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        (path / "config.toml").write_text(tomli_w.dumps(config | {"seed": seed}), encoding="utf-8")
    text, _ = script.leaderboard([tmp_path], against="blip")
    (rows,) = sections(text).values()
    differences = [0.3 * seed / REFERENCE for seed in (1, 2, 3)]
    low, high = student_interval(differences)
    assert numbers(rows["ewc"]["ACC − that of blip"]) == pytest.approx([np.mean(differences), low, high, 3], abs=2e-3)
    assert rows["ewc"]["ACC − that of blip"].endswith("(3 pairs)")
    assert rows["blip"]["ACC − that of blip"] == ""


def test_an_agent_without_a_finished_run_is_refused(script, tmp_path, capsys):
    make_run(tmp_path / "a")
    with pytest.raises(SystemExit, match="2"):
        script.main([str(tmp_path / "a"), "--against", "ewc", "--out", str(tmp_path / "page.md")])
    assert "--against ewc: no finished run of it: expected one of blip" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_games_without_a_reference_are_scaled_by_the_returns_and_the_page_says_so(script, tmp_path):
    make_run(tmp_path / "a", normalisers=False)
    text, _ = script.leaderboard([tmp_path])
    assert "No reference is known" in text
    assert numbers(next(iter(sections(text).values()))["blip"]["ACC"])


def test_folders_without_finished_runs_are_refused_with_one_message(script, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "half", stages=1)
    for folder, message in (("empty", "holds no run: expected a run folder"), ("half", "no finished run in")):
        with pytest.raises(SystemExit, match="2"):
            script.main([str(tmp_path / folder), "--out", str(tmp_path / "page.md")])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_five_files_of_a_run_are_enough(script, tmp_path, finished_run):
    (tmp_path / "tables" / "blip-0").mkdir(parents=True)
    for name in ("config.toml", "scores.csv", "speed.csv", "command.txt", "environment.json"):
        shutil.copy(finished_run / name, tmp_path / "tables" / "blip-0")
    page = script.leaderboard([tmp_path / "tables"])
    assert page == script.leaderboard([finished_run])
    (rows,) = sections(page[0]).values()
    assert "–" not in {rows["blip"][column] for column in ("ACC", "worst", "BWT", "steps/s", "memory MB")}


def test_the_page_is_written(script, tmp_path, capsys):
    make_run(tmp_path / "a")
    script.main([str(tmp_path / "a"), "--out", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.startswith("# Leaderboard\n")
    assert "\n## Published, not measured here\n\nNo numbers: BLIP" in page
    assert "wrote " in capsys.readouterr().out


def test_differences_are_averaged_over_sequences_by_seed(script, tmp_path):
    """`ewc` is 0.3 × seed higher on one sequence and 0.6 × seed on the other; seed 4 is on one of them alone."""
    for factor, steps in ((1, 1000), (2, 2000)):
        for seed in range(1, 4 + factor % 2):
            make_run(tmp_path / f"blip-{steps}-{seed}", seed=seed, steps=steps)
            path = make_run(
                tmp_path / f"ewc-{steps}-{seed}",
                agent="ewc",
                seed=seed + 3 * factor * seed,
                steps=steps,
                settings={"method": {"name": "ewc"}},
            )
            for one in (path, tmp_path / f"blip-{steps}-{seed}"):
                config = tomllib.loads((one / "config.toml").read_text(encoding="utf-8"))
                changed = {"seed": seed, "sequence_name": f"of {steps} steps"}
                (one / "config.toml").write_text(tomli_w.dumps(config | changed), encoding="utf-8")
    text, _ = script.leaderboard([tmp_path], against="blip")
    (row,) = sections(text)["Over sequences"].values()
    differences = [0.45 * seed / REFERENCE for seed in (1, 2, 3)]
    expected = pytest.approx([np.mean(differences), *student_interval(differences)], abs=2e-3)
    assert numbers(row["ACC − that of blip"]) == expected
    assert numbers(row["worst − that of blip"]) == expected, "every game is higher by the same"
    assert (row["agent"], row["sequences"], row["seeds"]) == ("ewc", "of 1000 steps, of 2000 steps", "1, 2, 3")


def test_other_references_are_another_table(script, tmp_path):
    for seed, reference in enumerate((10.0, 10.0, 20.0)):
        make_run(tmp_path / f"blip-{seed}", seed=seed, reference=reference)
    page, _ = script.leaderboard([tmp_path])
    assert page.count("Not comparable with the first table of this sequence: other random and reference scores.") == 1
    found = sections(page)
    assert {heading: rows["blip"]["seeds"] for heading, rows in found.items()} == {"three": "2", "three (2)": "1"}


def test_every_table_of_a_sequence_counts_over_sequences(script, tmp_path):
    """`ewc` is 3 higher, of 10, with one number of steps, and equal with the other two."""
    for steps in (1000, 2000, 3000):
        make_run(tmp_path / f"blip-{steps}", steps=steps)
        path = make_run(tmp_path / f"ewc-{steps}", agent="ewc", seed=30 if steps == 1000 else 0, steps=steps)
        config = tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
        (path / "config.toml").write_text(tomli_w.dumps(config | {"seed": 0}), encoding="utf-8")
    (row,) = sections(script.leaderboard([tmp_path], against="blip")[0])["Over sequences"].values()
    assert row["sequences"] == "three, three (2), three (3)"
    assert numbers(row["ACC − that of blip"]) == pytest.approx([0.1], abs=2e-3)


def test_a_repeated_run_is_no_further_seed(script, tmp_path):
    for name in ("a", "b", "c"):
        make_run(tmp_path / name)
    text, left_out = script.leaderboard([tmp_path])
    (rows,) = sections(text).values()
    assert rows["blip"]["seeds"] == "1"
    assert [line.split(":")[0] for line in left_out] == [f"'{tmp_path / name}'" for name in ("b", "c")]
