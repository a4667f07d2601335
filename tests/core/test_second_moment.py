"""Low rank plus a multiple of I against eigenvalues of the matrix written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blip_rl.core.second_moment import LowRank, SecondMoment


def dense(matrix):
    return matrix.root.T @ matrix.root + matrix.rest * torch.eye(matrix.root.shape[1], dtype=matrix.root.dtype)


def drawn(vectors, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vectors, size, generator=generator, dtype=torch.float64) * torch.linspace(3, 0.1, size)


@pytest.mark.parametrize("chunks", [[4], [3, 2, 9], [1] * 6, [30]])
def test_rows_have_the_second_moment_of_all_vectors(chunks):
    moment, vectors = SecondMoment(), drawn(sum(chunks), 8)
    assert moment.empty
    for chunk in vectors.split(chunks):
        moment.add(chunk)
    rows = moment.rows()
    assert not moment.empty
    assert len(rows) <= max(8, min(len(vectors), 8))
    torch.testing.assert_close(rows.T @ rows, vectors.T @ vectors)


@pytest.mark.parametrize("vectors", [2, 20])
def test_a_vector_that_is_not_finite_is_refused(vectors):
    moment = SecondMoment()
    moment.add(drawn(vectors, 8).index_fill(1, torch.tensor([3]), float("inf")))
    with pytest.raises(FloatingPointError):
        moment.rows()


@given(vectors=st.integers(1, 12), size=st.integers(1, 9), rank=st.integers(1, 11), rest=st.floats(0, 5))
def test_largest_eigenvalues_are_kept_and_the_others_are_their_mean(vectors, size, rank, rest):
    rows = drawn(vectors, size)
    matrix = LowRank.nearest(rows, rank, rest, torch.float64)
    exact = torch.linalg.eigvalsh(rows.T @ rows).flip(0)
    expected = exact.clone()
    if rank < size:
        expected[rank:] = exact[rank:].mean()
    torch.testing.assert_close(torch.linalg.eigvalsh(dense(matrix)).flip(0), expected + rest, rtol=1e-8, atol=1e-8)
    assert matrix.root.shape == (rank, size)
    assert matrix.trace() == pytest.approx(float(rows.square().sum()) + size * rest, abs=1e-8)


def test_all_eigenvalues_give_the_matrix_itself():
    rows = drawn(9, 6)
    torch.testing.assert_close(dense(LowRank.nearest(rows, 6, dtype=torch.float64)), rows.T @ rows)


def test_a_sum_within_the_rank_is_exact_and_beyond_it_keeps_the_trace():
    first, other = drawn(2, 8), drawn(3, 8, seed=1)
    wide = LowRank.nearest(first, 5, 0.5, torch.float64).plus(LowRank.nearest(other, 5, 0.2, torch.float64))
    expected = first.T @ first + other.T @ other + 0.7 * torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(dense(wide), expected)
    narrow = LowRank.nearest(first, 3, dtype=torch.float64).plus(LowRank.nearest(other, 3, dtype=torch.float64))
    assert narrow.root.shape == (3, 8)
    assert narrow.trace() == pytest.approx(float(first.square().sum() + other.square().sum()))


def test_products_and_multiples():
    matrix, x = LowRank.nearest(drawn(9, 6), 2, 0.1, torch.float64), drawn(4, 6, seed=2)
    torch.testing.assert_close(matrix.after(x), x @ dense(matrix))
    torch.testing.assert_close(dense(matrix.scaled(2.5)), 2.5 * dense(matrix))


def test_products_with_rounding_errors_in_place_of_zeros_are_not_subnormal():
    """As of a dead unit: a CPU computes many times more slowly with subnormal numbers."""
    vectors = drawn(50, 20)
    vectors[:, 7] *= 1e-20
    matrix = LowRank.nearest(vectors, 8)
    assert (matrix.root[:, 7] == 0).all()
    product = drawn(30, 20, seed=1).float() @ matrix.root.T @ matrix.root
    assert not ((product != 0) & (product.abs() < torch.finfo(torch.float32).tiny)).any()
    exact = LowRank.nearest(vectors, 8, dtype=torch.float64)
    torch.testing.assert_close(dense(matrix), dense(exact).float())


def test_nothing_gives_zero():
    matrix = LowRank.nearest(torch.zeros(1, 4, dtype=torch.float64), 3)
    assert not dense(matrix).any()
    assert dense(matrix).isfinite().all()
