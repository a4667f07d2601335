import pytest

from blip_rl.errors import UserError
from blip_rl.tasks.seeds import check_seed


@pytest.mark.parametrize(("seed", "num_envs"), [(0, 1), (5, 16), (2**31 - 1, 1), (2**31 - 16, 16)])
def test_seeds_in_range_pass(seed, num_envs):
    assert check_seed(seed, num_envs) == seed


@pytest.mark.parametrize(("seed", "num_envs"), [(-1, 1), (2**31, 1), (2**31 - 15, 16)])
def test_seeds_out_of_range_are_refused(seed, num_envs):
    with pytest.raises(UserError, match=f"seed {seed}: expected 0 to {2**31 - num_envs} "):
        check_seed(seed, num_envs)
