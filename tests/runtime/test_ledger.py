"""The ledger: whatever happens, in any order, each request is answered once."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.runtime.ledger import Ledger, Request, UnansweredError
from edgevit.runtime.wire import FOR_EVER

OUTPUTS = {"logits": np.zeros(3)}


def request(number: int, until: float = float("inf")) -> Request:
    return Request(number.to_bytes(16, "big"), {}, 0.0, until, Future())


EVENTS = st.lists(
    st.tuples(st.sampled_from(["answer", "fault", "again", "send"]), st.integers(0, 4)), max_size=60
)


@given(EVENTS)
def test_each_request_is_answered_once_or_still_open(events):
    ledger = Ledger(most_faults=3)
    requests = [request(number) for number in range(5)]
    for each in requests:
        ledger.add(each)
    for what, number in events:
        each = ledger.get(requests[number].id)
        if what == "again":
            ledger.send_again()
        elif each is None:
            continue
        elif what == "send":
            each.sent = 1.0
        elif what == "fault":
            ledger.fault(each, "broken")
        else:
            # A future refuses a second result: setting it twice would fail this test.
            ledger.finish(each, OUTPUTS, 1.0)
    still_open = {each.id for each in ledger}
    assert all(each.result.done() != (each.id in still_open) for each in requests)
    assert {each.id for each in ledger.waiting()} <= still_open


def test_an_answer_that_comes_twice_counts_once():
    ledger, each = Ledger(), request(1)
    ledger.add(each)
    ledger.finish(each, OUTPUTS, 2.5)
    ledger.finish(each, {}, 9.0)
    assert each.result.result().outputs is OUTPUTS
    assert each.result.result().seconds == 2.5


def test_of_an_ensemble_each_lane_counts_once_and_is_missed_until_it_came():
    ledger, each = Ledger(), request(1)
    ledger.add(each)
    ledger.gather(each, 0, OUTPUTS)
    ledger.gather(each, 0, {})
    assert each.gathered == {0: OUTPUTS}
    assert ledger.missing(each, [0, 1, 2]) == {1, 2}


def test_what_fails_again_and_again_is_given_up_with_its_reason():
    ledger, each = Ledger(most_faults=2), request(1)
    ledger.add(each)
    assert ledger.fault(each, "too hot")
    assert not ledger.fault(each, "too cold")
    with pytest.raises(UnansweredError, match="tried 2 times in vain: too cold"):
        each.result.result()
    assert len(ledger) == 0


def test_requests_are_overdue_and_expire_by_the_clock():
    ledger, early, late = Ledger(), request(1, until=5.0), request(2)
    early.sent, late.sent = 1.0, 4.0
    ledger.add(early)
    ledger.add(late)
    assert ledger.expired(4.9) == []
    assert ledger.expired(5.0) == [early]
    assert ledger.overdue(4.0, 2.0) == [early]


def test_an_envelope_says_how_much_time_is_left():
    assert request(1).envelope(7, 0.0).remaining == FOR_EVER
    assert request(1, until=2.0).envelope(7, 0.5).remaining == 1500
    # What is late is not for ever.
    assert request(1, until=2.0).envelope(7, 3.0).remaining == 1
