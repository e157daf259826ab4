"""What the agreement tests share: a database of each kind, and a profile for long runs.

`pytest tests/agreement --hypothesis-profile=soak` tries forty times as many examples, new ones each time.
"""

import hypothesis
import pytest

hypothesis.settings.register_profile("soak", max_examples=4_000, deadline=None, print_blob=True)


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    """An empty database: SQLite in memory, or a PostgreSQL database of the test's own."""
    return "sqlite:///:memory:" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
