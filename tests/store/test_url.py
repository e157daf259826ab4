"""Database URLs: what they mean, what is refused, and that passwords are not shown."""

from typing import Any

import pytest

from ensue.errors import DeclarationError
from ensue.store.drivers.sqlite import SqliteDriver
from ensue.store.url import open_driver, parse_database_url


@pytest.mark.parametrize(
    ("text", "path", "synchronous"),
    [
        ("sqlite:///app.db", "app.db", "full"),
        ("sqlite:////var/app.db?synchronous=off", "/var/app.db", "off"),
        ("sqlite:///a%20b%3F.db?synchronous=normal", "a b?.db", "normal"),
        ("sqlite:///:memory:", ":memory:", "full"),
    ],
)
def test_sqlite(text: str, path: str, synchronous: str) -> None:
    url = parse_database_url(text)
    assert (url.dialect, url.path, url.synchronous) == ("sqlite", path, synchronous)
    assert url.in_memory == (path == ":memory:")


@pytest.mark.parametrize(
    ("text", "dsn", "pool"),
    [
        ("postgresql://u:p@h:1/d", "postgresql://u:p@h:1/d", 10),
        ("postgres://h/d?pool=3", "postgresql://h/d", 3),
        ("postgresql:///d?host=/run/pg&pool=2&sslmode=disable", "postgresql:///d?host=%2Frun%2Fpg&sslmode=disable", 2),
        ("postgresql://u@a:1,b:2/d", "postgresql://u@a:1,b:2/d", 10),
    ],
)
def test_postgres(text: str, dsn: str, pool: int) -> None:
    url = parse_database_url(text)
    assert (url.dialect, url.dsn, url.pool, url.in_memory) == ("postgresql", dsn, pool, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app.db",
        "mysql://u:secret@h/d",
        "sqlite://app.db",
        "sqlite:///",
        "sqlite:///a.db#b",
        "sqlite:///a.db?synchronous=extra",
        "sqlite:///a.db?pool=3",
        "postgresql://u:secret@h/d?pool=0",
        "postgresql://u:secret@h/d?pool=many",
        "postgresql://u:secret@h/d?synchronous=off",
        "postgresql://u:secret@h:port/d",
        "postgresql://u:secret@[::1/d",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(DeclarationError, match="Accepted are sqlite:///") as caught:
        parse_database_url(text)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("given", [None, 5, b"postgresql://u:secret@h/d"])
def test_what_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(DeclarationError, match=r"The database URL is a \w+; expected a str\. Accepted are") as caught:
        parse_database_url(given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["postgresql://u:secret@h:1/d?pool=2", "postgresql://h/d?user=u&password=secret"])
def test_passwords_are_hidden(text: str) -> None:
    url = parse_database_url(text)
    assert "secret" in url.dsn
    assert "secret" not in f"{url} {url!r} {url.shown}"
    assert "***" in str(url)


async def test_functions_are_callable_from_sql() -> None:
    driver = open_driver("sqlite:///:memory:", functions={"ensue_upper": str.upper})
    assert isinstance(driver, SqliteDriver)
