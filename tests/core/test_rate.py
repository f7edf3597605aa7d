"""Token buckets and the gate of a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.rate import Bucket, Gate, RateLimits, buckets
from relay.protocol.errors import CloseCode, ErrorCode, SessionClosed

LIMITS = RateLimits(
    session_frames=10, session_bytes=1000, site_frames=15, site_bytes=10_000, burst_s=1.0, refusals=3, window_s=10.0
)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 20)), max_size=50), st.floats(1, 100))
def test_what_passes_never_exceeds_the_burst_and_the_rate(arrivals: list[tuple[float, float]], rate: float) -> None:
    bucket, now, passed = Bucket(rate, burst=20.0), 0.0, 0.0
    for pause, amount in arrivals:
        now += pause
        if bucket.wait(amount, now) == 0.0:
            bucket.take(amount)
            passed += amount
        assert passed <= 20.0 + rate * now + 1e-6


@given(st.floats(0.1, 20), st.floats(1, 100))
def test_after_the_wait_it_passes(amount: float, rate: float) -> None:
    bucket = Bucket(rate, burst=20.0)
    bucket.take(20.0)
    wait_s = bucket.wait(amount, 0.0)
    assert bucket.wait(amount, wait_s + 1e-6) == 0.0


def test_a_frame_larger_than_the_burst_passes_a_full_bucket_and_is_paid_for_afterwards() -> None:
    gate = Gate(LIMITS, [buckets(LIMITS.site_frames, LIMITS.site_bytes, LIMITS.burst_s)])
    assert gate.admit(5000, 0.0) is None
    refused = gate.admit(1, 1.0)
    assert refused is not None
    assert refused.code is ErrorCode.RATE_LIMITED
    assert refused.details["retry_after"] == pytest.approx(3.001, abs=0.01)


def test_sessions_of_one_site_share_its_bucket() -> None:
    shared = [buckets(LIMITS.site_frames, LIMITS.site_bytes, LIMITS.burst_s)]
    gates = [Gate(LIMITS, shared) for _ in range(2)]
    passed = sum(gate.admit(1, 0.0) is None for gate in gates for _ in range(3) for _ in range(3))
    assert passed == 15


def test_who_goes_on_all_the_same_is_closed_4429() -> None:
    gate = Gate(LIMITS, [buckets(LIMITS.site_frames, LIMITS.site_bytes, LIMITS.burst_s)])
    for _ in range(10):
        assert gate.admit(1, 0.0) is None
    for _ in range(3):
        assert gate.admit(1, 0.0) is not None
    with pytest.raises(SessionClosed) as closed:
        gate.admit(1, 0.0)
    assert closed.value.code is CloseCode.RATE_LIMITED


def test_refusals_long_ago_are_forgotten() -> None:
    gate = Gate(LIMITS, [buckets(LIMITS.site_frames, LIMITS.site_bytes, LIMITS.burst_s)])
    for second in range(0, 100, 20):
        while gate.admit(1, float(second)) is None:
            pass
