import pytest

from blip_rl.errors import UserError
from blip_rl.recipes import RecipeError, resolve

# Not a shipped recipe: those may be retuned without a test noticing.
AGENT = """
description = "mine"

[ppo]
environments = 16
rollout_steps = 125
minibatches = 8
epochs = 4
learning_rate = 2.5e-4
learning_rate_schedule = "linear"
clip_range = 0.1
clip_range_value = 0.1
entropy_coefficient = 0.01
value_coefficient = 0.5
discount = 0.99
gae_lambda = 0.95
max_gradient_norm = 0.5
adam_epsilon = 1e-5

[trunk]
task_modulation = false

[trunk.image]
conv = [[32, 8, 4], [64, 4, 2], [128, 3, 1]]
hidden = [1024]
activation = "relu"

[trunk.vector]
hidden = [64, 64]
activation = "tanh"

[method]
name = "blip"
gain = "reference"
first_task_bits = 4
"""


@pytest.fixture(scope="session")
def problems():
    """Resolve something that is wrong; return the lines that say so."""

    def lines(*arguments, **options):
        with pytest.raises(RecipeError) as caught:
            resolve(*arguments, **options)
        return caught.value.problems

    return lines


@pytest.fixture(scope="session")
def outcome():
    """Return what a function returned, or the message of its UserError; any other error fails the test."""

    def call(function, *arguments, **options):
        try:
            return function(*arguments, **options), ""
        except UserError as error:
            return None, str(error)

    return call


@pytest.fixture
def agent_file(tmp_path):
    """Write an agent recipe with a piece of its text replaced."""

    def write(old="", new=""):
        assert old in AGENT
        path = tmp_path / "mine.toml"
        path.write_text(AGENT.replace(old, new, 1), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def sequence_file(tmp_path):
    """Write a sequence recipe."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(f'description = "mine"\n{text}', encoding="utf-8")
        return str(path)

    return write
