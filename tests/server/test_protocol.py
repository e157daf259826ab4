"""The conversation on its own: its states, its limits, and that nothing a client says makes it fail."""

from __future__ import annotations

import json
import string
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.server.answers import ErrorAnswer
from ensue.server.protocol import (
    CLOSE,
    REQUESTS_MAX,
    SUBSCRIPTIONS_MAX,
    TRANSITIONS,
    Ask,
    Close,
    Conversation,
    Happening,
    Say,
    State,
)

API = {"id": 1, "type": "api", "namespace": "n", "name": "a"}


def opened(**limits: Any) -> Conversation:
    """A conversation with a client that was let in."""
    conversation = Conversation("r", **limits)
    conversation.happened("accepted")
    return conversation


def said(output: object) -> Any:
    """The message in an output that must be one."""
    assert isinstance(output, Say)
    return json.loads(output.text)


@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize("what", get_args(Happening))
def test_every_happening_in_every_state(state: State, what: Happening) -> None:
    conversation = Conversation("r")
    conversation.state = state
    close = conversation.happened(what)
    expected = TRANSITIONS.get((state, what), state)
    assert conversation.state == expected
    # An end is announced once, with its code.
    assert close == (Close(*CLOSE[what]) if expected == "closing" and state != "closing" else None)


def test_an_end_is_final() -> None:
    assert {after for (before, _), after in TRANSITIONS.items() if before == "closing"} == {"closed"}
    assert not [before for before, _ in TRANSITIONS if before == "closed"]
    conversation = opened()
    conversation.happened("shutdown")
    assert conversation.text_received(json.dumps(API)) is None


def test_requests_are_limited() -> None:
    conversation = opened()
    asks = [conversation.text_received(json.dumps({**API, "id": number})) for number in range(REQUESTS_MAX)]
    assert all(isinstance(ask, Ask) for ask in asks)
    assert said(conversation.text_received(json.dumps({**API, "id": 0})))["error"]["code"] == "duplicate_id"
    refused = said(conversation.text_received(json.dumps({**API, "id": "more"})))
    assert (refused["id"], refused["error"]["code"]) == ("more", "too_many_requests")
    assert isinstance(asks[0], Ask)
    conversation.finished(asks[0].request, None)
    assert isinstance(conversation.text_received(json.dumps({**API, "id": 0})), Ask)


def test_subscriptions_are_limited_and_can_be_had_again() -> None:
    conversation = opened()
    last: Any = None
    for number in range(SUBSCRIPTIONS_MAX + 1):
        message = {"id": number, "type": "subscribe", "read": "R"}
        last = conversation.text_received(json.dumps(message))
        if isinstance(last, Ask):
            conversation.finished(last.request, None)
    assert said(last)["error"]["code"] == "too_many_subscriptions"
    conversation.ended(0, ErrorAnswer(403, "not_allowed", ""))
    assert isinstance(conversation.text_received('{"id": 0, "type": "subscribe", "read": "R"}'), Ask)


def test_a_failed_subscription_is_none() -> None:
    conversation = opened()
    ask = conversation.text_received('{"id": 5, "type": "subscribe", "read": "R"}')
    assert isinstance(ask, Ask)
    assert said(conversation.failed(ask.request, ErrorAnswer(404, "x", "y")))["error"]["request_id"] == "r"
    assert not conversation.subscriptions


def test_the_limit_counts_bytes() -> None:
    text = '{"type": "ping", "id": "' + "x" * 40 + '"}'
    assert isinstance(opened(bytes_max=len(text)).text_received(text), Say)
    assert opened(bytes_max=len(text) - 1).text_received(text) == Close(*CLOSE["too_large"])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_lowercase, max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
_names = st.sampled_from(
    ["id", "type", "name", "payload", "record", "key", "fields", "read", "subscription", "namespace"]
)
_types = st.sampled_from(["interaction", "api", "subscribe", "unsubscribe", "ping", "pong", "x"])


@given(
    st.text()
    | _json.map(json.dumps)
    | st.builds(lambda kind, more: json.dumps({**more, "type": kind}), _types, st.dictionaries(_names, _json))
)
def test_nothing_that_is_said_makes_it_fail(text: str) -> None:
    conversation = opened(bytes_max=500)
    output = conversation.text_received(text)
    assert output is None or isinstance(output, Say | Ask | Close)
    if isinstance(output, Say):
        assert said(output)["type"] in ("error", "pong")
