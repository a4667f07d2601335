"""Range of environment seeds."""

import pytest

from blip_rl.errors import UserError
from blip_rl.tasks.seeds import FIRST_EVALUATION_SEED, check_seed, seed_text


@pytest.mark.parametrize(("largest", "num_envs"), [(2**31 - 1, 1), (2**31 - 16, 16)])
def test_seeds_range_from_0_to_the_largest_31_bit_integer_in_every_environment(largest, num_envs):
    assert [check_seed(seed, num_envs) for seed in (0, largest)] == [0, largest]
    for seed in (-1, largest + 1):
        with pytest.raises(UserError, match=f"seed {seed}: expected 0 to {largest} "):
            check_seed(seed, num_envs)


def test_evaluation_seeds_are_shown_as_in_the_tables():
    first = FIRST_EVALUATION_SEED + 1_000_003
    assert seed_text(first) == "evaluation seed 1000003"
    assert seed_text(first, 10) == "one of the evaluation seeds 1000003 to 1000012"
    assert seed_text(FIRST_EVALUATION_SEED - 1) == "seed 1073741823"
    assert seed_text(7, 2) == "one of the seeds 7 to 8"
    assert seed_text(None) == "seeds drawn at random"
