"""From the text of a database URL to a driver.

Decides which URLs are accepted, their defaults, and how a URL is shown; leaves connecting to the drivers, which are
imported only when wanted. Invariant: a password is in `dsn` and nowhere else, so that neither repr nor an error
message can show it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from ensue.errors import DeclarationError
from ensue.store.driver import Dialect, Driver

Synchronous = Literal["full", "normal", "off"]

POOL_DEFAULT = 10
MEMORY = ":memory:"
ACCEPTED = (
    "Accepted are sqlite:///relative.db, sqlite:////absolute.db and sqlite:///:memory:, each with "
    "?synchronous=full|normal|off (default full), and postgresql://user:password@host:port/database?pool=10, "
    "or postgresql:///database?host=/directory/of/the/socket."
)
_SYNCHRONOUS = ("full", "normal", "off")
_POSTGRES_OPTIONS = (
    "pool",
    "host",
    "port",
    "user",
    "password",
    "passfile",
    "database",
    "dbname",
    "application_name",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
)


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A parsed database URL; `shown` is it without secrets.

    `path` (a file name or `":memory:"`) and `synchronous` are for SQLite; `dsn` and `pool` (most connections open at a
    time, the one for notifications not counted) for PostgreSQL.
    """

    dialect: Dialect
    shown: str
    path: str = ""
    synchronous: Synchronous = "full"
    dsn: str = field(default="", repr=False)
    pool: int = POOL_DEFAULT

    @property
    def in_memory(self) -> bool:
        """Whether the data is gone when the driver is closed."""
        return self.path == MEMORY

    def __str__(self) -> str:
        return self.shown


def parse_database_url(text: str) -> DatabaseUrl:
    """Parse `text`; raises `DeclarationError` that says what is accepted.

    >>> print(parse_database_url("postgresql://ann:secret@db.example/app?pool=5"))
    postgresql://ann:***@db.example/app?pool=5
    """
    if not isinstance(cast("object", text), str):
        raise DeclarationError(f"The database URL is a {type(text).__name__}; expected a str. {ACCEPTED}")
    scheme, separator, _ = text.partition("://")
    try:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        _ = parts.port if "," not in parts.netloc else None
    except ValueError as error:
        # urllib's own message can quote the host part, password included.
        raise DeclarationError(f"The database URL (scheme {scheme[:20]!r}) is malformed. {ACCEPTED}") from (
            error if "@" not in text else None
        )
    if separator and parts.scheme == "sqlite":
        return _sqlite(text, parts, options)
    if separator and parts.scheme in ("postgresql", "postgres"):
        return _postgres(parts, options)
    found = f"has the scheme {scheme!r}, which is not known" if separator else "has no scheme"
    raise DeclarationError(f"The database URL {found}. {ACCEPTED}")


def open_driver(url: DatabaseUrl | str, *, functions: Mapping[str, Callable[..., Any]] | None = None) -> Driver:
    """The driver for `url`, not yet connected (`await driver.open()` does that).

    `functions` are deterministic scalar functions that SQL text for SQLite may call. Of them PostgreSQL takes only its
    clocks, `statement_timestamp` and `clock_timestamp`, which give the datetime that is meant by them instead.
    """
    if isinstance(url, str):
        url = parse_database_url(url)
    if url.dialect == "sqlite":
        from ensue.store.drivers.sqlite import SqliteDriver

        return SqliteDriver(url, functions=functions)
    from ensue.store.drivers.postgres import CLOCKS, PostgresDriver

    return PostgresDriver(url, clocks={name: now for name, now in (functions or {}).items() if name in CLOCKS})


def _sqlite(text: str, parts: SplitResult, options: dict[str, str]) -> DatabaseUrl:
    _refuse_unknown(options, ("synchronous",), text)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or parts.fragment or not path:
        raise DeclarationError(
            f"The database URL {text!r} names no file: after sqlite: come three slashes and the file, four for an "
            f"absolute path; write '?' and '#' in a file name as %3F and %23. {ACCEPTED}"
        )
    synchronous = options.get("synchronous", "full")
    if synchronous not in _SYNCHRONOUS:
        raise DeclarationError(f"The database URL {text!r} has synchronous={synchronous!r}. {ACCEPTED}")
    return DatabaseUrl("sqlite", text, path=path, synchronous=synchronous)


def _postgres(parts: SplitResult, options: dict[str, str]) -> DatabaseUrl:
    shown = _without_secrets(parts, options)
    _refuse_unknown(options, _POSTGRES_OPTIONS, shown)
    try:
        pool = int(options.get("pool", POOL_DEFAULT))
    except ValueError:
        pool = 0
    if pool < 1:
        raise DeclarationError(
            f"The database URL {shown!r} has pool={options['pool']!r}; expected a number from 1. {ACCEPTED}"
        )
    for_asyncpg = {name: value for name, value in options.items() if name != "pool"}
    dsn = _text(parts.netloc, parts.path, urlencode(for_asyncpg))
    return DatabaseUrl("postgresql", shown, dsn=dsn, pool=pool)


def _refuse_unknown(options: dict[str, str], known: Sequence[str], shown: str) -> None:
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise DeclarationError(
            f"The database URL {shown!r} has the unknown option {', '.join(unknown)}. "
            f"Known here: {', '.join(known)}. {ACCEPTED}"
        )


def _without_secrets(parts: SplitResult, options: dict[str, str]) -> str:
    account, at, host = parts.netloc.rpartition("@")
    user, colon, _ = account.partition(":")
    netloc = f"{user}{colon and ':***'}{at}{host}"
    secrets = ("password", "sslpassword")
    query = urlencode({name: "***" if name in secrets else value for name, value in options.items()}, safe="*/:")
    return _text(netloc, parts.path, query)


def _text(netloc: str, path: str, query: str) -> str:
    # urllib leaves out the slashes before an empty host, which asyncpg wants.
    return f"postgresql://{netloc}{path}{query and '?'}{query}"
