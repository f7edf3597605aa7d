"""The mathematics, without a network: what a site computes, and what the coordinator makes of it.

Weights are one vector: a coefficient per feature, and the intercept last. What travels is arrays as `.npz` bytes: plain
numbers with names, never pickled objects, so that reading them cannot run anything.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relay.demo.data import Cases, Floats, Ints

LEARNING_RATE = 0.5
L2 = 1e-3


# --- standardising, without showing anybody a patient


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Of each feature: over `n` cases the mean, and the sum of squared differences from it."""

    n: int
    mean: Floats
    m2: Floats

    @property
    def scale(self) -> Floats:
        """The standard deviation; 1 where a feature does not vary."""
        deviation = np.sqrt(self.m2 / self.n)
        return np.where(deviation > 0, deviation, 1.0)


def moments(x: Floats) -> Moments:
    mean = x.mean(axis=0)
    return Moments(n=len(x), mean=mean, m2=((x - mean) ** 2).sum(axis=0))


def pool(parts: Sequence[Moments]) -> Moments:
    """The moments of all sites' cases together, from each site's own.

    By the pairwise update of T. F. Chan, G. H. Golub and R. J. LeVeque (1979): sums of squares, which lose their digits
    when the mean is large, are never formed.
    """
    total, *others = parts
    for part in others:
        n = total.n + part.n
        shift = part.mean - total.mean
        total = Moments(
            n=n,
            mean=total.mean + shift * (part.n / n),
            m2=total.m2 + part.m2 + shift**2 * (total.n * part.n / n),
        )
    return total


def standardised(x: Floats, mean: Floats, scale: Floats) -> Floats:
    """Features in units of the standard deviation, and a column of ones for the intercept."""
    return np.column_stack(((x - mean) / scale, np.ones(len(x))))


# --- learning


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Where training stands after an epoch. `loss` is the mean cross-entropy; `accuracy` is on the training cases."""

    epoch: int
    weights: Floats
    loss: float
    accuracy: float


def train(weights: Floats, x: Floats, y: Ints, epochs: int) -> Iterator[Step]:
    """Logistic regression by gradient descent, from these weights on; one step per epoch. `x` is standardised."""
    for epoch in range(1, epochs + 1):
        slope = x.T @ (probabilities(weights, x) - y) / len(y) + L2 * weights
        weights = weights - LEARNING_RATE * slope
        p = np.clip(probabilities(weights, x), 1e-12, 1 - 1e-12)
        loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        yield Step(epoch=epoch, weights=weights, loss=float(loss), accuracy=accuracy(weights, x, y))


def average(updates: Sequence[tuple[int, Floats]]) -> Floats:
    """Federated averaging (McMahan et al., 2017): sites' weights, each counted by its number of cases."""
    counts = np.array([n for n, _ in updates], dtype=np.float64)
    return np.average(np.stack([weights for _, weights in updates]), axis=0, weights=counts)


def probabilities(weights: Floats, x: Floats) -> Floats:
    """Of being malignant."""
    return 1 / (1 + np.exp(-np.clip(x @ weights, -500, 500)))


def accuracy(weights: Floats, x: Floats, y: Ints) -> float:
    return float(np.mean((probabilities(weights, x) >= 0.5) == (y == 1)))


def scored(weights: Floats, cases: Cases, mean: Floats, scale: Floats) -> float:
    """The accuracy on cases that are not standardised yet."""
    return accuracy(weights, standardised(cases.x, mean, scale), cases.y)


# --- travelling


def pack(**arrays: Floats | int) -> bytes:
    """Arrays by name, as bytes."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(buffer, **named)
    return buffer.getvalue()


def unpack(payload: bytes) -> dict[str, Floats]:
    """What `pack` made.

    Raises:
        ValueError: it is something else, pickled objects among it.
    """
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
