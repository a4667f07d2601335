"""The schedule: order, retries and stops, with an engine that runs nothing."""

import os
import signal
import threading

import pytest

from blip_rl.errors import InterruptedRunError, RunError, UserError
from blip_rl.sweeps.run import run_sweep
from blip_rl.sweeps.schedule import Schedule
from tests.sweeps.small_sweeps import FakeEngine, small_manifest

RUNS = [f"cartpole-a+cartpole-b-finetune-seed{seed}" for seed in range(4)]


@pytest.fixture
def jobs(tmp_path):
    return small_manifest(seeds="0-3").jobs(tmp_path)


def states(jobs, engine, retries=2):
    shown = []
    ended = Schedule(jobs, engine, retries, lambda now: shown.append([one.state for one in now])).run()
    assert engine.open is False
    return [(one.state, one.retries) for one in ended], shown


def test_no_more_jobs_run_at_a_time_than_there_are_places(jobs):
    engine = FakeEngine(places=2)
    ended, shown = states(jobs, engine)
    assert ended == [("finished", 0)] * 4
    assert engine.submitted == RUNS
    assert [now.count("running") for now in shown] == [2, 2, 0]


def test_a_lost_job_is_tried_again_at_the_end_and_a_failed_one_is_not(jobs):
    engine = FakeEngine(places=1, endings={RUNS[0]: ["lost", "finished"], RUNS[1]: ["failed"]})
    ended, _ = states(jobs, engine)
    assert ended == [("finished", 1), ("failed", 0), ("finished", 0), ("finished", 0)]
    assert engine.submitted == [*RUNS, RUNS[0]]


def test_a_job_that_is_lost_too_often_has_failed(jobs):
    ended, _ = states(jobs, FakeEngine(endings={RUNS[2]: ["lost"] * 3}), retries=2)
    assert ended[2] == ("failed", 2)


def test_a_job_that_somebody_else_stopped_is_tried_again(jobs):
    ended, _ = states(jobs, FakeEngine(endings={RUNS[3]: ["interrupted"]}))
    assert ended[3] == ("finished", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_jobs_and_starts_no_more(tmp_path, number):
    engine = FakeEngine(until_stopped=True, at_poll=lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRunError) as error:
        run_sweep(tmp_path / "x", small_manifest(seeds="0-3"), engine, retries=2)
    assert error.value.signal_number == number
    assert "0 of 4 runs finished, 2 interrupted; continue with: " in str(error.value)
    assert len(engine.submitted) == 2
    assert engine.open is False
    assert signal.getsignal(number) == before


def test_an_engine_that_cannot_run_here_leaves_no_new_folder_and_no_begun_one_without_its_runs(tmp_path):
    class Refusing(FakeEngine):
        def __enter__(self):
            raise UserError("nothing answers there")

    begun = tmp_path / "begun"
    run_sweep(begun, small_manifest(seeds="0"), FakeEngine(), retries=0)
    before = sorted(begun.rglob("*"))
    for folder in (tmp_path / "new", begun):
        with pytest.raises(UserError, match="nothing answers"):
            run_sweep(folder, small_manifest(seeds="0-3"), Refusing(), retries=0)
    assert not (tmp_path / "new").exists()
    assert sorted(begun.rglob("*")) == before


def test_the_second_interrupt_leaves_at_once(jobs):
    engine = FakeEngine(until_stopped=True, at_poll=lambda: os.kill(os.getpid(), signal.SIGINT))
    engine.stop = lambda: None  # the jobs do not end
    with pytest.raises(KeyboardInterrupt):
        states(jobs, engine)
    assert engine.open is False


def test_failed_runs_are_named_with_their_command_and_the_others_go_on(tmp_path, capsys):
    engine = FakeEngine(endings={RUNS[1]: ["failed"], RUNS[3]: ["lost", "lost"]})
    with pytest.raises(RunError) as error:
        run_sweep(tmp_path / "x", small_manifest(seeds="0-3"), engine, retries=1)
    lines = str(error.value).splitlines()
    assert lines[0] == "2 of 4 runs failed:"
    assert lines[1] == f"  {RUNS[1]}: it was failed"
    assert lines[2] == f"    log {tmp_path / 'x' / 'logs' / RUNS[1]}.log"
    assert lines[3].startswith("    command: blip-rl train --games cartpole-a,cartpole-b --agent finetune")
    assert lines[4] == f"  {RUNS[3]}: it was lost (tried 2 times)"
    assert "2 of 4 runs finished, 2 failed" in capsys.readouterr().out


def test_a_sweep_runs_in_a_thread(jobs):
    """Python sets signal handlers in the main thread alone."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(states(jobs, FakeEngine(places=2))[0]))
    thread.start()
    thread.join()
    assert ended == [[("finished", 0)] * 4]
