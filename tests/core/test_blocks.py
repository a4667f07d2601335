"""Blocks of large tensors."""

import pytest
import torch

from blip_rl.core.blocks import row_blocks


@pytest.mark.parametrize(
    ("shape", "elements", "rows"),
    [
        ((10, 3), 30, [10]),
        ((10, 3), 29, [9, 1]),
        ((10, 3), 7, [2, 2, 2, 2, 2]),
        ((10, 3), 1, [1] * 10),
        ((0, 3), 5, [0]),
        ((7,), 3, [3, 3, 1]),
        ((), 5, [None]),
    ],
)
def test_pieces_are_views_of_the_same_rows(shape, elements, rows):
    tensors = torch.rand(shape), torch.zeros(shape, dtype=torch.uint8)
    pieces = list(row_blocks(*tensors, elements=elements))
    assert [None if not piece.dim() else piece.shape[0] for piece, _ in pieces] == rows
    for number, (_, second) in enumerate(pieces, start=1):
        second.fill_(number)
    if shape:
        assert torch.equal(torch.cat([piece for piece, _ in pieces]), tensors[0])
        expected = [number for number, count in enumerate(rows, start=1) for _ in range(count)]
        assert torch.equal(
            tensors[1].reshape(shape[0], -1).amax(1) if shape[0] else tensors[1][:, 0],
            torch.tensor(expected, dtype=torch.uint8),
        )


def test_pieces_keep_their_layout():
    image = torch.rand(6, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    assert all(piece.stride() == image.stride() for (piece,) in row_blocks(image, elements=50))
