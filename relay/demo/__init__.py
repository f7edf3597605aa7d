"""A real training through a real relay: three hospitals and a coordinator, each a process of its own;
one of the hospitals has a controller that polls, as those in the field do.

    play         what happens: who is started when, who is killed and started again, and what came of it
    stage        the processes: a relay, and whatever else is started; all of them end with it
    coordinator  asks for rounds of training and averages what comes back
    participant  trains on its own data, which never leaves it
    poller       the same, for a controller that polls
    run_files    the files of runs: how the coordinator exchanges models with who polls
    data         who has which patients
    model        the mathematics: logistic regression, federated averaging, pooled mean and variance
    yardstick    what the result is measured against
    display      what is shown meanwhile

The coordinator and the participants know nothing of the play: they are what a site would write with `relay.client`.
"""

from __future__ import annotations


def main(rounds: int = 5, as_json: bool = False, plain: bool = False) -> int:
    """Run the demo; `as_json` makes the last line of standard output one JSON object, `plain` leaves payloads unsealed.

    Returns:
        The exit status: 0 only if all runs ended in Success, the model is as good as one trained on all data at once
        (within `yardstick.TOLERANCE`), the site that was killed went on where it was, and what was sealed is nowhere
        to be read in what the relay has stored.
    """
    from relay.demo import play  # noqa: PLC0415 - the processes of the sites need nothing of it

    return play.main(rounds, as_json, plain)
