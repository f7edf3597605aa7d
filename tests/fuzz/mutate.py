"""Inputs from seeds: a mutation at a time, and the same ones for the same randomness."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.fuzz.targets import Target

LONGEST_BYTES = 64 * 1024


def inputs(target: Target, rng: random.Random) -> Iterator[bytes]:
    """The seeds, and then what comes of them, for ever."""
    yield from target.seeds
    while True:
        data = bytearray(rng.choice(target.seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 8))):
            _mutate(data, target, rng)
        yield bytes(data[:LONGEST_BYTES])


def _mutate(data: bytearray, target: Target, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((0, 1, 2, 4, 16, 64)))
    match rng.randrange(7):
        case 0:
            del data[at:end]
        case 1:
            data[at:end] = rng.choice(target.words)
        case 2:
            data[at:at] = data[at:end]
        case 3:
            data[at:end] = rng.randbytes(end - at)
        case 4 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 5:
            data[at:at] = rng.choice(target.words)
        case _:
            other = rng.choice(target.seeds)
            data[at:] = other[rng.randrange(len(other) + 1) :]
