"""Who has which patients: scikit-learn's breast-cancer data, dealt out to hospitals that differ in size and in kind.

Each site calls `of_site` with its own name and sees nothing else. The test set belongs to nobody: no site trains on it.
(W. N. Street, W. H. Wolberg, O. L. Mangasarian, 1993: 569 fine-needle aspirates, 30 features, 357 of them benign.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

TEST_SHARE = 0.3
SEED = 11
MARK = b"sent_ns"
"""Stands in every command, and in the package: the relay has stored it if, and only if, it can read them."""
PACKAGE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What part of all benign and of all malignant cases a site has."""

    site: str
    benign: float
    malignant: float


SHARES = (
    Share(site="St. Anna", benign=0.60, malignant=0.35),
    Share(site="Northfield", benign=0.28, malignant=0.25),
    Share(site="Lakeside", benign=0.12, malignant=0.40),
)
"""A large screening centre, a district hospital, and a small clinic that is sent the difficult cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cases:
    """One row of `x` per patient; `y` is 1 for malignant."""

    x: Floats
    y: Ints

    def __len__(self) -> int:
        return len(self.y)


def of_site(site: str) -> Cases:
    """A site's own cases."""
    x, y = _load()
    train, _ = _indices()
    parts = deal(y[train], SHARES, np.random.default_rng(SEED))
    mine = train[parts[[share.site for share in SHARES].index(site)]]
    return Cases(x=x[mine], y=y[mine])


def of_all() -> Cases:
    """All training cases in one place, which in earnest would be nowhere."""
    x, y = _load()
    train, _ = _indices()
    return Cases(x=x[train], y=y[train])


def for_test() -> Cases:
    """The cases that no site trains on."""
    x, y = _load()
    _, test = _indices()
    return Cases(x=x[test], y=y[test])


@cache
def _load() -> tuple[Floats, Ints]:
    x, y = load_breast_cancer(return_X_y=True)
    return np.asarray(x, dtype=np.float64), 1 - np.asarray(y, dtype=np.int64)  # there, 1 is benign


@cache
def _indices() -> tuple[Ints, Ints]:
    """Rows to train on, and rows to test on."""
    shuffled = np.random.default_rng(SEED).permutation(len(_load()[1]))
    cut = round(len(shuffled) * TEST_SHARE)
    return shuffled[cut:], shuffled[:cut]


def deal(y: Ints, shares: Sequence[Share], rng: np.random.Generator) -> list[Ints]:
    """Deal cases out: for each share the indices into `y`, each index to exactly one.

    Raises:
        ValueError: the shares of a class do not add up to 1.
    """
    parts: list[list[Ints]] = [[] for _ in shares]
    for label, wanted in ((0, [share.benign for share in shares]), (1, [share.malignant for share in shares])):
        if not np.isclose(sum(wanted), 1):
            raise ValueError(f"the shares of a class add up to 1, these to {sum(wanted)}")
        cases = rng.permutation(np.flatnonzero(y == label))
        cuts = np.rint(np.cumsum(wanted[:-1]) * len(cases)).astype(np.int64)
        for part, piece in zip(parts, np.split(cases, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def package() -> bytes:
    """What the coordinator sends to every site before the training, and is too long for an event: 32 MiB that stand for
    the frozen layers of a large model. The same at each call.
    """
    return MARK + np.random.default_rng(PACKAGE_BYTES).bytes(PACKAGE_BYTES - len(MARK))
