"""The signature equals, byte for byte, what the vendor's two packages make of the same request at the same instant.

The two differ from each other in one thing: parameters whose names need escaping are sorted before it by one, after it by
the other. No parameter of the service has such a name; there the newer package is followed.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.integrations.volc.signature import Credentials, Unsigned, canonical_query, signed_headers

with warnings.catch_warnings():
    # The vendor's packages import what is deprecated.
    warnings.simplefilter("ignore")
    import volcenginesdkcore.signv4
    from volcengine.auth.SignerV4 import SignerV4
    from volcengine.base.Request import Request
    from volcengine.Credentials import Credentials as VendorCredentials

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)
NAMES = st.text("abcXYZ019-_.~", min_size=1, max_size=8)
QUERIES = st.dictionaries(NAMES, TEXT, max_size=5)
ODD_QUERIES = st.dictionaries(TEXT.filter(bool), TEXT, max_size=5)
HOSTS = st.sampled_from(["visual.volcengineapi.com", "localhost:8080", "localhost:443", "example.com:80"])
HEADERS = st.fixed_dictionaries(
    {"Host": HOSTS},
    optional={"Content-Type": st.just("application/json"), "X-Extra": st.just("a b"), "Accept": st.just("*/*")},
)
SECRETS = Credentials("AKexample", "c2VjcmV0~", "cn-north-1", "cv")


def ours(request: Unsigned, date_time: str, credentials: Credentials = SECRETS) -> dict[str, str]:
    at = datetime.strptime(date_time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signed_headers(request, credentials, at)


def by_first(request: Unsigned, credentials: Credentials = SECRETS) -> dict[str, str]:
    """What `volcengine` makes of it."""
    theirs: Any = Request()
    theirs.method, theirs.path, theirs.query = request.method, request.path, dict(request.query)
    theirs.headers, theirs.body, theirs.host = dict(request.headers), request.body, request.headers["Host"]
    made = VendorCredentials(
        credentials.access_key,
        credentials.secret_key,
        credentials.service,
        credentials.region,
        session_token=credentials.session_token,
    )
    SignerV4.sign(theirs, made)
    return dict(theirs.headers)


def by_second(request: Unsigned, credentials: Credentials = SECRETS) -> dict[str, str]:
    """What `volcenginesdk-core` makes of it."""
    headers = dict(request.headers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volcenginesdkcore.signv4.SignerV4.sign(
            request.path,
            request.method,
            headers,
            request.body.decode(),
            None,
            dict(request.query),
            credentials.access_key,
            credentials.secret_key,
            credentials.region,
            credentials.service,
            credentials.session_token,
        )
    return headers


@settings(max_examples=60)
@given(query=QUERIES, headers=HEADERS, body=TEXT)
def test_equal_to_both_vendors_packages(query: dict[str, str], headers: dict[str, str], body: str) -> None:
    request = Unsigned("POST", "/", query, {"Content-Type": "application/json", **headers}, body.encode())
    for vendors in (by_first(request), by_second(request)):
        assert ours(request, vendors["X-Date"]) == vendors


@settings(max_examples=40)
@given(query=ODD_QUERIES, body=TEXT)
def test_equal_to_the_newer_one_for_any_names(query: dict[str, str], body: str) -> None:
    request = Unsigned("POST", "/", query, {"Host": "h", "Content-Type": "application/json"}, body.encode())
    vendors = by_second(request)
    assert ours(request, vendors["X-Date"]) == vendors


@pytest.mark.parametrize("oracle", [by_first, by_second])
def test_equal_for_what_is_escaped_most_easily_wrong(oracle: Any) -> None:
    query = {"Action": "CVSync2AsyncSubmitTask", "z": "~+* /?&=%", "a b": "é漢", "A": "", "a": "1"}
    body = '{"prompt": "a café — 漢字 \\n"}'.encode()
    request = Unsigned("POST", "/", query, {"Host": "x.example", "Content-Type": "application/json"}, body)
    vendors = oracle(request)
    assert ours(request, vendors["X-Date"]) == vendors
    credentials = Credentials("AK", "SK", "cn-beijing", "vod", session_token="token/+=")
    vendors = oracle(request, credentials)
    assert ours(request, vendors["X-Date"], credentials) == vendors


def test_the_query_is_sent_as_it_is_signed() -> None:
    assert canonical_query({"b": "x y", "a": "~+*é"}) == "a=~%2B%2A%C3%A9&b=x%20y"


def test_a_secret_is_in_no_repr() -> None:
    shown = repr(Credentials("AK", "very-secret", "r", "s", "a-token"))
    assert "very-secret" not in shown
    assert "a-token" not in shown
