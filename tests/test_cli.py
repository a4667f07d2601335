import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from blip_rl import __version__, cli
from blip_rl.errors import UserError
from blip_rl.tasks.games import atari_roms


@pytest.fixture
def trained(monkeypatch):
    """Replace training by a record of what it was called with."""
    import blip_rl.run.train

    calls = []
    monkeypatch.setattr(blip_rl.run.train, "train", lambda config, **options: calls.append((config, options)))
    return calls


@pytest.fixture
def evaluated(monkeypatch):
    """Replace evaluation by a record of what it was called with."""
    import blip_rl.evaluation.rescore

    calls = []

    def record(run, **options):
        calls.append((run, options))
        return blip_rl.evaluation.rescore.Evaluation([], "the scores")

    monkeypatch.setattr(blip_rl.evaluation.rescore, "evaluate_run", record)
    return calls


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, so that anything written shows."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(elsewhere):
    """A folder named ``run`` with a recipe of the games a and b, and nothing else."""
    (elsewhere / "run").mkdir()
    (elsewhere / "run" / "config.toml").write_text('[[tasks]]\nname = "a"\n[[tasks]]\nname = "b"\n', encoding="utf-8")
    return elsewhere / "run"


def invoke(*arguments):
    return CliRunner().invoke(cli.cli, arguments)


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["blip-rl", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


# Help


def test_help_shows_defaults_and_examples():
    output = " ".join(invoke("train", "-h").output.split())  # undo line wrapping
    assert all(default in output for default in ["default: atari6", "default: blip", "default: auto", "default: 0"])
    assert "Examples:" in invoke("-h").output


def test_version():
    assert invoke("--version").output == f"blip-rl {__version__}\n"


# train


def test_train_defaults_to_the_papers_games_and_blip(trained):
    result = invoke("train")
    assert (result.exit_code, result.output) == (0, "")
    ((config, options),) = trained
    assert (config.sequence_name, config.agent_name, config.seed, config.device) == ("atari6", "blip", 0, "auto")
    assert options == {"out": None, "threads": 0, "quiet": False, "progress": "auto", "track": None, "callback": None}


def test_train_passes_its_options_on(trained, tmp_path):
    arguments = (
        "--games cartpole-a,pong --agent finetune --steps 5k --seed 7 --device cpu --out new --threads 3 --progress log"
    )
    result = invoke("train", *arguments.split(), "--set", "ppo.epochs=2", "--set", "evaluation.episodes=1")
    assert result.exit_code == 0, result.output
    ((config, options),) = trained
    assert [(task.name, task.steps) for task in config.tasks] == [("cartpole-a", 5000), ("pong", 5000)]
    assert (config.agent_name, config.seed, config.device) == ("finetune", 7, "cpu")
    assert (config.agent.ppo.epochs, config.evaluation.episodes) == (2, 1)
    assert (str(options["out"]), options["threads"], options["progress"]) == ("new", 3, "log")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            "--games kungfoo --agent blop",
            ["2 problems", "did you mean kungfu?", "did you mean blip?", "blip-rl list agents"],
        ),
        ("--steps many", ["--steps 'many'", "whole number of steps", "500k"]),
        ("--seed -1", ["--seed -1: expected a whole number from 0 to 1,073,741,823"]),
        ("--device gpu", ["--device 'gpu'", "auto, cpu, cuda or cuda:N"]),
        ("--set ppo.epochs=0", ["--set ppo.epochs=0", "greater than or equal to 1"]),
        ("--out file", ["--out", "'file'", "exists"]),
        ("--progress fast", ["--progress 'fast': expected one of auto, bar, log, off"]),
        ("--quiet --progress log", ["--progress log with --quiet", "leave one"]),
        ("--gmes kungfu", ["--gmes", "--games"]),
    ],
)
def test_bad_input_is_one_message_and_code_2(arguments, parts, trained, tmp_path):
    (tmp_path / "file").touch()
    result = invoke("train", *arguments.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("Error: ") == 1
    assert all(part in result.stderr for part in parts), result.stderr
    assert "Traceback" not in result.stderr
    assert not trained
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# evaluate


def test_evaluate_passes_its_options_on(evaluated, run):
    result = invoke(
        "evaluate",
        "run",
        *["--games", "a,b", "--episodes", "3", "--stochastic", "--zero-shot", "--seed", "5"],
        *["--stage", "2", "--workers", "3"],
    )
    assert (result.exit_code, result.output) == (0, "the scores\n")
    assert str(evaluated[0][0]) == "run"
    assert evaluated[0][1] == {
        "games": ("a", "b"),
        "episodes": 3,
        "actions": "stochastic",
        "zero_shot": True,
        "seed": 5,
        "stages": [2],
        "workers": 3,
        "quiet": False,
    }


@pytest.mark.parametrize(("flags", "actions"), [([], None), (["--greedy"], "greedy"), (["--stochastic"], "stochastic")])
def test_evaluate_defaults_to_the_settings_of_the_run(flags, actions, evaluated, run):
    assert invoke("evaluate", "run", *flags).exit_code == 0
    unset = dict.fromkeys(["games", "episodes", "seed", "stages", "workers"])
    assert evaluated[0][1] == {**unset, "actions": actions, "zero_shot": False, "quiet": False}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("evaluate nowhere", ["'nowhere'", "does not exist"]),
        ("evaluate run --episodes 0", ["--episodes 0: expected a whole number from 1 to"]),
        ("evaluate run --games a,,b", ["--games 'a,,b'", "single commas"]),
        ("evaluate", ["RUN is missing: expected cli evaluate [OPTIONS] RUN"]),
    ],
)
def test_evaluate_refuses(arguments, parts, evaluated, run):
    result = invoke(*arguments.split())
    assert (result.exit_code, evaluated) == (2, [])
    assert all(part in result.stderr for part in parts), result.stderr


# list


def test_list_shows_every_kind():
    result = invoke("list")
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if line.endswith(":")] == [
        "games:",
        "agents:",
        "sequences:",
        "methods:",
    ]
    assert f"{len(atari_roms())} ALE ROM names" in result.stderr


def test_all_lists_every_rom():
    names = [line.split()[0] for line in invoke("list", "games", "--all").stdout.splitlines()]
    assert set(atari_roms()) <= {*names, "kung_fu_master", "space_invaders"}
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["list", "gmaes"], "KIND 'gmaes': did you mean games? (one of games, agents,"),
        (["trian"], "did you mean train?"),
    ],
)
def test_unknown_commands_and_kinds_are_refused_with_suggestions(arguments, part):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert part in result.stderr


# Exit codes


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (UserError("no: because"), 2, "Error: no: because\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (OSError(28, "No space left on device"), 1, "Error: [Errno 28] No space left on device\n"),
    ],
)
def test_exit_codes(error, code, message, monkeypatch, capsys):
    def fail(config, **options):
        if error is not None:
            raise error

    monkeypatch.setattr("blip_rl.run.train.train", fail)
    assert run_main(monkeypatch, "train") == code
    assert capsys.readouterr().err == message


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    def fail(config, **options):
        raise ZeroDivisionError

    monkeypatch.setattr("blip_rl.run.train.train", fail)
    monkeypatch.setattr(sys, "argv", ["blip-rl", "train"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_closed_pipe_causes_no_traceback():
    """As in ``blip-rl list | head``."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "blip_rl", "list", "games", "--all"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# Shell completion


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train --games kungfu,bo", {"kungfu,boxing"}),
        ("train --games cartpole-b", {"cartpole-b"}),
        ("train --agent blip-r", {"blip-reference"}),
        ("evaluate run --games b,", {"b,a", "b,b"}),
        ("evaluate nowhere --games ", {""}),
        ("tr", {"train"}),
        ("trian --se", {""}),
        ("train --seed x --s", {"--steps", "--set"}),
    ],
)
def test_completion(line, expected, run, monkeypatch, capsys):
    words = f"blip-rl {line}"
    for name, value in {"_BLIP_RL_COMPLETE": "bash_complete", "COMP_WORDS": words}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert run_main(monkeypatch) == 0
    assert {entry.partition(",")[2] for entry in capsys.readouterr().out.splitlines()} == expected
