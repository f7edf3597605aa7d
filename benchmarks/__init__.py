"""What the relay costs, each figure beside a peer's or a physical limit's, measured in the same run.

    python -m benchmarks                    all parts
    python -m benchmarks b1 b3 --quick      some parts, in seconds

A part is a module `b<number>_<name>.py` with a `main()`. Servers and load run in processes of their own; subject and
peer take turns, and what counts is the median of their ratios.
"""
