"""Fault injection: failing writes and flipped bits. A run ends with the right results or with an error message.

By default one write of each kind fails; the parameters marked slow take every single one, and more bits of every file.
"""

import re
import shutil
import subprocess
import warnings
from collections import Counter
from pathlib import Path

import pytest

from blip_rl.errors import RunError, UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.run.train import train
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import assert_equal, curves, killed_at, resume_run, run_files, settings, small_run
from tests.run.file_events import FailingEvents

pytestmark = [
    pytest.mark.usefixtures("_blank_heatmaps"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc what is flushed"),
    # TensorBoard's thread meets the fault too; the command line keeps quiet about it (blip_rl.cli.program).
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EVERY_NTH_EVENT = 5  # there are a hundred, all alike
TINY = (
    *settings("blip"),
    "checkpoint.every_steps=128",
    "evaluation.every_steps=192",
    "evaluation.episodes=1",
    "evaluation.max_episode_steps=30",
    "ppo.epochs=1",
)


def tiny_train(out):
    return train(small_run(steps="256", overrides=TINY), out=out, threads=1, quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run interrupted twice in its second task, with two snapshots and events written after the newer one."""
    out = tmp_path_factory.mktemp("left") / "run"
    with killed_at(ContinualPPO, "train", 4):
        tiny_train(out)
    with killed_at(snapshots, "save"):
        resume_run(out)
    return out


# --- writes that fail


@pytest.fixture(scope="module")
def events_of_a_run(tmp_path_factory):
    return _counted(tmp_path_factory.mktemp("count") / "run", tiny_train)


@pytest.fixture(scope="module")
def events_of_a_resume(interrupted, tmp_path_factory):
    return _counted(shutil.copytree(interrupted, tmp_path_factory.mktemp("count") / "run"), resume_run)


def _counted(run, work):
    with FailingEvents(run).observed() as events:
        work(run)
    return events.seen


def faults_of(kind):
    return ("refused", "short", "full") if kind in ("write", "tensors") else ("refused", "full")


def kind_of_file(name):
    """Return a file's name without its changing parts."""
    return re.sub(r"(step|stage)-\d+(-2)?", r"\1", name)


def one_of_each(seen):
    """Return (kind, name), call and fault, so that each kind of event and each kind of file fails once or more."""
    calls, met = {}, Counter()
    for (kind, name), count in seen.items():
        calls.setdefault((kind, kind_of_file(name)), []).extend(((kind, name), call) for call in range(1, count + 1))
    for (kind, file), found in calls.items():
        if not met[kind] or not met[file] or kind == "write":
            yield *found[len(found) // 2], faults_of(kind)[met[kind] % len(faults_of(kind))]
            met.update((kind, file))


def every(seen):
    for (kind, name), count in seen.items():
        for call in range(1, count + 1, EVERY_NTH_EVENT if name == "events" else 1):
            for fault in faults_of(kind):
                yield (kind, name), call, fault


def ends_well(run, work, point, whole):
    """Run with one failing event, then resume; the results must equal those of a run without faults."""
    chosen, call, fault = point
    events = FailingEvents(run, chosen, call, fault)
    try:
        with events.observed():
            work(run)
    except (RunError, OSError) as error:
        told = str(error)
        assert re.search(r"No space left|Input/output error", told), (point, told)
        if run.exists():
            assert "resume with: blip-rl train --resume" in told, (point, told)
            assert (run / "config.toml").exists(), point
    if not run.exists():  # the fault was met before there was a run
        return events.failed
    if work is tiny_train and not events.failed:
        return False
    expected = run_files(whole)
    if RunFolder(run).finished(2):  # at most snapshots that could not be removed are left
        assert run_files(run).items() >= expected.items(), point
    else:
        assert run_files(resume_run(run)) == expected, point
    assert curves(run) == curves(whole), point
    return events.failed


SOME_OR_ALL = pytest.mark.parametrize("points", [one_of_each, pytest.param(every, marks=pytest.mark.slow)])


def all_end_well(points, prepare, work, whole):
    """Fail each write once; check the results, and that nearly all of the faults have been met."""
    met = []
    for number, point in enumerate(points):
        run = prepare(number)
        met.append(ends_well(run, work, point, whole))
        shutil.rmtree(run, ignore_errors=True)
    print(f"{sum(met)} of {len(met)} faults were met")
    assert sum(met) > 0.98 * len(met) - 1  # a thread of TensorBoard's decides when events are flushed


@SOME_OR_ALL
def test_a_run_survives_failing_writes(points, events_of_a_run, whole, tmp_path):
    chosen = list(points(events_of_a_run))
    assert {kind for (kind, _), _, _ in chosen} >= {"open", "write", "tensors", "fsync", "rename", "mkdir"}
    assert {kind_of_file(name) for (_, name), _, _ in chosen} >= {"events", "scores.csv", "checkpoints/step", ".lock"}
    all_end_well(chosen, lambda number: tmp_path / f"run-{number}", tiny_train, whole)


@SOME_OR_ALL
def test_a_resume_survives_failing_writes(points, interrupted, events_of_a_resume, whole, tmp_path):
    chosen = list(points(events_of_a_resume))
    if points is one_of_each:  # the others are those of a run
        chosen = [point for point in chosen if point[0][0] in ("rename", "remove")]
    assert {kind for (kind, _), _, _ in chosen} >= {"rename", "remove"}
    all_end_well(chosen, lambda number: shutil.copytree(interrupted, tmp_path / f"run-{number}"), resume_run, whole)


# --- a disk that is really full


@pytest.fixture
def small_disk(tmp_path):
    """A small file system whose size can be changed."""
    path = tmp_path / "disk"
    path.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(path)], capture_output=True).returncode
    ):
        pytest.skip("no disk can be mounted here: that takes root")

    def sized(kilobytes):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(path)], check=True)
        return path

    yield sized
    subprocess.run(["umount", "-l", str(path)], check=True)


def kilobytes_of(run):
    """Return the size of the files in pages of 4 KB."""
    return sum(-(-file.stat().st_size // 4096) * 4 for file in run.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "sizes",
    [lambda most: (8, most // 2), pytest.param(lambda most: range(8, most, 12), marks=pytest.mark.slow)],
    ids=["two", "many"],
)
def test_a_run_survives_a_full_disk(sizes, small_disk, whole):
    """Disks from one that is too small for the recipe to one that is full at the last checkpoint."""
    left = []
    for kilobytes in sizes(kilobytes_of(whole)):
        run = small_disk(kilobytes) / "run"
        with pytest.raises((RunError, OSError), match="No space left on device"):
            tiny_train(run)
        small_disk(16_000)
        left.append(run.exists())
        if run.exists():
            assert_equal(resume_run(run), whole)
        shutil.rmtree(run, ignore_errors=True)
    assert (left[0], left[-1]) == (False, True)


# --- bits that flip


def flip(path, place, bit):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def survives(run, file, place, bit, whole):
    """Return whether a run with a flipped bit resumes, with the right results; if not, its files must be unchanged."""
    before = {name: (run / name).read_bytes() for name in ("command.txt", "environment.json")}
    flip(run / file, place, bit)
    damaged = run_files(run)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a snapshot that gives way to the one before
            resume_run(run)
    except (UserError, RunError):
        assert run_files(run) == damaged, (file, place, bit)
        return False
    assert_equal(run, whole)
    assert all((run / name).read_bytes() == content for name, content in before.items()), (file, place, bit)
    return True


def places(size, count):
    """Return the first and last offset of a file, and offsets between them."""
    return sorted({0, size - 1, *(size * part // count for part in range(count))}) if size else []


@pytest.mark.parametrize("count", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_any_file_is_noticed(count, interrupted, tmp_path, whole):
    resumed = {}  # file → whether the run resumed, for each flip
    for file in sorted(path.relative_to(interrupted) for path in interrupted.rglob("*") if path.is_file()):
        resumed[str(file)] = []
        for place in places((interrupted / file).stat().st_size, count):
            run = shutil.copytree(interrupted, tmp_path / "run")
            resumed[str(file)].append(survives(run, file, place, place % 8, whole))
            shutil.rmtree(run)
    print({name: f"{sum(found)} of {len(found)} resumed" for name, found in resumed.items()})
    newest, older = sorted(name for name in resumed if name.endswith("games.safetensors"))[::-1]
    assert all(resumed[newest] + resumed[older])
    for name in ("scores.csv", "plasticity.csv", "environment.json", "command.txt"):
        assert not all(resumed[name]), name
