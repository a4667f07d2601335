"""Second moments Σ x xᵀ of many vectors, and positive semidefinite matrices of low rank plus a multiple of I."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class SecondMoment:
    """Vectors x as rows; beyond d rows, d the size of x, only their Gram matrix Σ x xᵀ."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._gram: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing has been added."""
        return self._gram is None and not self._rows

    def add(self, rows: Float[Tensor, "n d"]) -> None:
        """Add vectors; they are not copied."""
        self._rows.append(rows)
        if self._gram is not None or sum(map(len, self._rows)) > rows.shape[1]:
            for kept in self._rows:
                wide = kept.double()
                self._gram = wide.T @ wide if self._gram is None else self._gram.addmm_(wide.T, wide)
            self._rows = []

    def rows(self) -> Float64[Tensor, "n d"]:
        """Return R, at most d rows, with RᵀR = Σ x xᵀ: the vectors, or the square root of the Gram matrix.

        Raises:
            FloatingPointError: a vector is not finite.
        """
        found = torch.cat(self._rows).double() if self._gram is None else self._gram
        if not torch.isfinite(found).all():
            raise FloatingPointError("not finite")
        if self._gram is None:
            return found
        energy, directions = torch.linalg.eigh(found)
        root: Tensor = energy.clamp_(min=0.0).sqrt_().unsqueeze(1) * directions.T
        return root


@dataclass(frozen=True)
class LowRank:
    """The matrix RᵀR + ρ I, (d, d), positive semidefinite.

    Attributes:
        root: R, (rank, d); with fewer than ``rank`` directions, or d below ``rank``, some rows are 0.
        rest: ρ, a scalar.
    """

    root: Float[Tensor, "rank d"]
    rest: Float[Tensor, ""]

    @classmethod
    def nearest(
        cls, rows: Float64[Tensor, "n d"], rank: int, rest: float | Tensor = 0.0, dtype: torch.dtype = torch.float32
    ) -> LowRank:
        """Approximate M = rowsᵀ rows + rest · I: its largest eigenvalues are exact, and its trace.

        All other eigenvalues are replaced by their mean.

        Args:
            rows: At least one.
            rank: Number of eigenvalues that are kept.
            rest: What is known to be a multiple of I.
            dtype: That of the result.
        """
        d, (squares, mixtures) = rows.shape[1], torch.linalg.eigh(rows @ rows.T)
        squares, mixtures = squares.flip(0).clamp(min=0.0), mixtures.flip(1)
        kept = min(rank, d, len(squares))
        mean = squares[kept:].sum() / max(1, d - kept)
        largest = squares[:kept]
        root = rows.new_zeros(rank, d)
        # rowsᵀ u has length √λ: scaled to √(λ − mean), and by 0 where λ is 0.
        shares = (largest - mean).clamp(min=0.0) / largest.clamp(min=torch.finfo(rows.dtype).tiny)
        root[:kept] = shares.sqrt().unsqueeze(1) * (mixtures[:, :kept].T @ rows)
        # Where an entry should be 0, as for a dead unit, rounding leaves about 1e-20: products of several such entries
        # are subnormal float32 numbers, with which a CPU computes many times more slowly.
        root[root.abs() < torch.finfo(dtype).eps * root.abs().max()] = 0.0
        return cls(root.to(dtype), (mean + rest).to(dtype))

    @property
    def rank(self) -> int:
        """Rows of the root."""
        return len(self.root)

    def plus(self, other: LowRank) -> LowRank:
        """Approximate the sum by one of the same rank."""
        rows = torch.cat([self.root, other.root]).double()
        return self.nearest(rows, self.rank, self.rest.double() + other.rest.double(), self.root.dtype)

    def damped(self, share: float) -> LowRank:
        """Add ``share`` times the mean eigenvalue to every eigenvalue."""
        return LowRank(self.root, self.rest + share * self.trace() / self.root.shape[1])

    def scaled(self, factor: float) -> LowRank:
        """Return ``factor`` ≥ 0 times the matrix."""
        return LowRank(self.root * factor**0.5, self.rest * factor)

    def trace(self) -> float:
        """Return the trace."""
        return float(self.root.square().sum() + self.root.shape[1] * self.rest)

    def after(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Compute x M."""
        return torch.addcmul(x @ self.root.T @ self.root, x, self.rest)

    def to(self, device: torch.device) -> LowRank:
        """Copy the matrix to a device."""
        return LowRank(self.root.to(device), self.rest.to(device))
