"""Two hospitals' cases, and some to test on, as files: real ones, from scikit-learn's breast-cancer data.

    python examples/deal.py FOLDER

writes `north.csv`, `south.csv` and `reference.csv`. A line is a case: 30 features of a tumour, then 1
for malignant or 0 for benign. In earnest nobody deals out patients: each hospital has its own file already.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

SHARES = {"north.csv": 0.5, "south.csv": 0.2, "reference.csv": 0.3}


def deal(folder: Path) -> None:
    """Deal the cases out, each to one file. All are in units that the sites have agreed on: those of the reference."""
    features, benign = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(features))
    cuts = (np.cumsum(list(SHARES.values()))[:-1] * len(order)).astype(int)
    parts = dict(zip(SHARES, np.split(order, cuts), strict=True))
    reference = features[parts["reference.csv"]]
    units = (features - reference.mean(axis=0)) / reference.std(axis=0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        np.savetxt(folder / name, np.column_stack([units[rows], 1 - benign[rows]]), fmt="%.6g", delimiter=",")
        print(f"{folder / name}: {len(rows)} cases")


if __name__ == "__main__":
    deal(Path(sys.argv[1]))
