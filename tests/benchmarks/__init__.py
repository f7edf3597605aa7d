"""That the benchmarks run: their figures are not looked at."""
