"""One target under atheris (libFuzzer), guided by what code of the relay an input reaches: see `tests.fuzz`.

python -m tests.fuzz.guided TARGET SECONDS
"""

from __future__ import annotations

import sys
from pathlib import Path

HOME = Path(".fuzz")
LONGEST_BYTES = 32 * 1024
INPUT_TIMEOUT_S = 10
RSS_MIB = 1024


def main(name: str, seconds: int) -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("atheris has wheels for Linux on x86-64 and Python 3.11 to 3.13 only; the suite's own turn needs none")
    with atheris.instrument_imports(include=["relay"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus = HOME / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = HOME / f"{name}.dict"
    words.write_text("".join(f'"{_quoted(word[:60])}"\n' for word in target.words))
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-dict={words}",
        f"-artifact_prefix={corpus}/",
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_BYTES}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={RSS_MIB}",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup(arguments, target.run)
    atheris.Fuzz()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
