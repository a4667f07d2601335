"""Fault injection: failing writes and flipped bits. A run ends with the right results or with an error message.

The quick tests take one write of each kind; those marked slow take every single one, and several bits of every file.
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
from tests.run.broken_off import assert_equal, curves, killed_at, resume_run, run_files, settings, small_run
from tests.storage.faulty_disk import FaultyDisk

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
WRITTEN_ONCE = ("config.toml", "command.txt", "environment.json")


def tiny_train(out):
    return train(small_run(steps="256", overrides=TINY), out=out, threads=1, quiet=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def left_in_the_middle(tmp_path_factory):
    """A run interrupted twice in its second task, with two snapshots and events written after the newer one."""
    out = tmp_path_factory.mktemp("left") / "run"
    with killed_at(ContinualPPO, "train", 4):
        tiny_train(out)
    with killed_at(snapshots, "save"):
        resume_run(out)
    return out


@pytest.fixture
def left(left_in_the_middle, tmp_path):
    return shutil.copytree(left_in_the_middle, tmp_path / "run")


# --- writes that fail


@pytest.fixture(scope="module")
def writes_of_a_run(tmp_path_factory):
    return _counted(tmp_path_factory.mktemp("count") / "run", tiny_train)


@pytest.fixture(scope="module")
def writes_of_a_resume(left_in_the_middle, tmp_path_factory):
    return _counted(shutil.copytree(left_in_the_middle, tmp_path_factory.mktemp("count") / "run"), resume_run)


def _counted(run, work):
    with FaultyDisk(run).in_use() as disk:
        work(run)
    return disk.writes


def faults_of(kind):
    return ("refused", "short", "full") if kind in ("write", "tensors") else ("refused", "full")


def kind_of_file(name):
    """Return a file's name without its changing parts."""
    return re.sub(r"(step|stage)-\d+", r"\1", name)


def one_of_each(writes):
    """Return (kind, name), call and fault for the middle write of each kind of file, with the worst fault."""
    calls, seen = {}, Counter()
    for (kind, name), count in writes.items():
        calls.setdefault((kind, kind_of_file(name)), []).extend(((kind, name), call) for call in range(1, count + 1))
    for (kind, _), found in calls.items():
        seen[kind] += 1
        fault = faults_of(kind)[seen[kind] % len(faults_of(kind))]
        yield *found[len(found) // 2], fault


def every(writes):
    for (kind, name), count in writes.items():
        for call in range(1, count + 1, EVERY_NTH_EVENT if name == "events" else 1):
            for fault in faults_of(kind):
                yield (kind, name), call, fault


def ends_well(run, work, point, whole):
    """Run with one failing write, then resume; the results must equal those of a run without faults."""
    chosen, call, fault = point
    disk = FaultyDisk(run, chosen, call, fault)
    try:
        with disk.in_use():
            work(run)
    except (RunError, OSError) as error:
        told = str(error)
        assert re.search(r"No space left|Input/output error", told), (point, told)
        if run.exists():
            assert "resume with: blip-rl train --resume" in told, (point, told)
            assert (run / "config.toml").exists(), point
    if not run.exists():  # the fault was met before there was a run
        return disk.failed
    if work is tiny_train and not disk.failed:
        return False
    if run_files(run) != run_files(whole):
        resume_run(run)
    assert run_files(run) == run_files(whole), point
    assert curves(run) == curves(whole), point
    return disk.failed


def test_a_write_of_each_kind_fails(writes_of_a_run, whole, tmp_path):
    points = list(one_of_each(writes_of_a_run))
    assert {kind for (kind, _), _, _ in points} >= {"write", "tensors", "fsync", "rename", "replace", "mkdir", "create"}
    assert {kind_of_file(name) for (_, name), _, _ in points} >= {"events", "scores.csv", "checkpoints/step", ".lock"}
    for number, point in enumerate(points):
        assert ends_well(tmp_path / f"run-{number}", tiny_train, point, whole), point


def test_a_write_of_each_kind_fails_while_a_run_is_resumed(left_in_the_middle, writes_of_a_resume, whole, tmp_path):
    points = [point for point in one_of_each(writes_of_a_resume) if point[0][0] in ("truncate", "unlink", "rename")]
    assert {kind for (kind, _), _, _ in points} == {"truncate", "unlink", "rename"}
    for number, point in enumerate(points):
        run = shutil.copytree(left_in_the_middle, tmp_path / f"run-{number}")
        assert ends_well(run, resume_run, point, whole), point


@pytest.mark.slow
def test_every_single_write_fails(writes_of_a_run, whole, tmp_path):
    met = 0
    for number, point in enumerate(every(writes_of_a_run)):
        met += ends_well(tmp_path / f"run-{number}", tiny_train, point, whole)
        shutil.rmtree(tmp_path / f"run-{number}", ignore_errors=True)
    print(f"{met} of {number + 1} faults were met")
    assert met > 0.98 * number  # a thread of TensorBoard's decides when events are flushed


@pytest.mark.slow
def test_every_single_write_fails_while_a_run_is_resumed(left_in_the_middle, writes_of_a_resume, whole, tmp_path):
    met = 0
    for number, point in enumerate(every(writes_of_a_resume)):
        run = shutil.copytree(left_in_the_middle, tmp_path / f"run-{number}")
        met += ends_well(run, resume_run, point, whole)
        shutil.rmtree(run, ignore_errors=True)
    print(f"{met} of {number + 1} faults were met")
    assert met > 0.98 * number


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


def is_full_at(kilobytes, small_disk, whole):
    run = small_disk(kilobytes) / "run"
    try:
        with pytest.raises((RunError, OSError), match="No space left on device"):
            tiny_train(run)
        small_disk(16_000)
        if run.exists():
            assert_equal(resume_run(run), whole)
        return not run.exists()
    finally:
        shutil.rmtree(run, ignore_errors=True)


def test_a_disk_is_really_full(small_disk, whole):
    assert is_full_at(8, small_disk, whole)
    assert not is_full_at(kilobytes_of(whole) // 2, small_disk, whole)


@pytest.mark.slow
def test_disks_of_many_sizes_are_really_full(small_disk, whole):
    """From too small for the recipe to full at the last checkpoint."""
    found = [is_full_at(size, small_disk, whole) for size in range(8, kilobytes_of(whole), 12)]
    assert found[0]
    assert not found[-1]


# --- bits that flip


def flip(path, place, bit):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


def survives(run, file, place, bit, whole):
    """Return whether a run with a flipped bit resumes, with the right results; if not, its files must be unchanged."""
    before = {name: (run / name).read_bytes() for name in WRITTEN_ONCE}
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
    unread = {"config.toml"}  # it is compared by what it means: a comment may say something else
    assert all((run / name).read_bytes() == before[name] for name in set(WRITTEN_ONCE) - unread), (file, place, bit)
    return True


def places(size, count):
    """Return the first and last offset of a file, and offsets between them."""
    return sorted({0, size - 1, *(size * part // count for part in range(count))})


def flipped(left, tmp_path, whole, count):
    """Return file → numbers of flips after which the run resumed, and was refused."""
    found = {}
    for file in sorted(path.relative_to(left) for path in left.rglob("*") if path.is_file()):
        size = (left / file).stat().st_size
        went_on = [
            survives(shutil.copytree(left, tmp_path / f"run-{place}"), file, place, place % 8, whole)
            for place in (places(size, count) if size else ())
        ]
        shutil.rmtree(tmp_path, ignore_errors=True)
        found[str(file)] = (sum(went_on), len(went_on) - sum(went_on))
    return found


def test_a_bit_flips_in_each_file(left, tmp_path_factory, whole):
    found = flipped(left, tmp_path_factory.mktemp("flips") / "runs", whole, 1)
    newest, older = sorted(name for name in found if name.endswith("games.safetensors"))[::-1]
    assert found[newest][0] == found[older][0] == 2
    for name in ("scores.csv", "plasticity.csv", "environment.json", "command.txt"):
        assert found[name][1] >= 1, name


@pytest.mark.slow
def test_bits_flip_everywhere(left, tmp_path_factory, whole):
    found = flipped(left, tmp_path_factory.mktemp("flips") / "runs", whole, 16)
    for name, (went_on, refused) in found.items():
        print(f"{name}: {went_on} flips gone on from, {refused} refused")
    assert sum(map(sum, found.values())) > 300
