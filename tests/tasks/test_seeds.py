"""Range of environment seeds."""

import pytest

from blip_rl.errors import UserError
from blip_rl.tasks.seeds import check_seed


@pytest.mark.parametrize(("largest", "num_envs"), [(2**31 - 1, 1), (2**31 - 16, 16)])
def test_seeds_range_from_0_to_the_largest_31_bit_integer_in_every_environment(largest, num_envs):
    assert [check_seed(seed, num_envs) for seed in (0, largest)] == [0, largest]
    for seed in (-1, largest + 1):
        with pytest.raises(UserError, match=f"seed {seed}: expected 0 to {largest} "):
            check_seed(seed, num_envs)
