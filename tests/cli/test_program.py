"""Lack of memory or of a working directory gives one message and the correct exit code."""

import os
import subprocess
import sys

import pytest

from blip_rl.cli import program
from blip_rl.errors import RunError, UserError, error_text, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "MemoryError"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "failed to map segment"),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes\nFrame 0"), "9 bytes"),
    ],
)
def test_a_lack_of_memory_is_one_message(error, told, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("blip_rl.listing.print_names", fail)
    monkeypatch.setattr(sys, "argv", ["blip-rl", "list"])
    with pytest.raises(SystemExit) as caught:
        program.main()
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: not enough memory (")
    assert told in line


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    for error in (RuntimeError("shapes differ"), ImportError("No module named x"), OSError(28, "No space left")):
        assert not is_out_of_memory(error)
        assert error_text(error) == str(error)
    assert error_text(RunError("not enough memory: x; go on with")) == "not enough memory: x; go on with"
    assert not is_out_of_memory(UserError("out of memory"))  # a mistake in a request has its own message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
@pytest.mark.parametrize("kilobytes", [300_000, 500_000])
def test_a_limit_below_what_torch_needs_is_one_message(kilobytes, tmp_path):
    """Its library cannot be mapped. Just above, about 550 to 620 MB, the C libraries abort the process themselves."""
    train = "-m blip_rl train --games cartpole-a --steps 128 --threads 1 --quiet --out run"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v {kilobytes}; exec '{sys.executable}' {train}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "memory" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_working_directory_that_is_gone_is_one_message(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from blip_rl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--games", "cartpole-a"],
        cwd=gone,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 2
    assert done.stderr == "Error: the working directory no longer exists: change to another one (cd)\n"
