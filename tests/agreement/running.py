"""Runs scripts on a real app beside the slow model, many in a row on one database.

Decides how an app is made, kept and thrown away between examples. Invariant: every example begins with an empty
app; the one before deleted all it had made through the store (which is a check of its own), and after a failure the
app is made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import hypothesis

from ensue import App
from ensue.engine.audit import audit
from ensue.schema.freeze import freeze
from ensue.schema.model import Model
from ensue.schema.schema import Schema
from ensue.testing.generate_operations import Script
from ensue.testing.slow_agreement import Agreement, Image, Options
from tests.services import run_sql


@dataclass(frozen=True, slots=True)
class Declared:
    """The classes that an app is made of."""

    entities: tuple[type[Any], ...]
    globals: tuple[type[Any], ...] = ()
    interactions: tuple[type[Any], ...] = ()

    def model(self) -> Model:
        """The frozen model of an app of these classes."""
        return freeze(Schema.collect(entities=self.entities, interactions=self.interactions, globals=self.globals))

    def app(self, url: str) -> App:
        """An app of these classes on a database."""
        return App(entities=self.entities, interactions=self.interactions, globals=self.globals, database=url)


class Bench:
    """An app on a database, for one script after the other."""

    def __init__(self, declared: Declared, url: str) -> None:
        self.declared, self.url = declared, url
        self.model = declared.model()
        self._loop = asyncio.Runner()
        self._app: App | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()
        self._loop.close()

    def run(self, script: Script, **options: Any) -> Result:
        """Run a script on the empty app, comparing after every commit, and delete everything again."""
        try:
            return self._loop.run(self._run(script, options))
        except BaseException:
            self._discard()
            raise

    async def _run(self, script: Script, options: dict[str, Any]) -> Result:
        if self._app is None:
            app = self.declared.app(self.url)
            await app.__aenter__()
            self._app = app
        agreement = Agreement(self.model, self._app.controller, Options(audit=audit_of(self._app), **options))
        await agreement.run(script)
        result = Result(await agreement.actual(), agreement.exceptions)
        await agreement.clear()
        return result

    def _discard(self) -> None:
        app, self._app = self._app, None
        if app is not None:
            self._loop.run(app.__aexit__(None, None, None))
        if self.url.startswith("postgresql"):
            run_sql(self.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


@dataclass(frozen=True, slots=True)
class Result:
    """What the app held at the end, and how many writes were refused or left out on the way."""

    image: Image
    exceptions: int


def audit_of(app: App) -> Callable[[], Awaitable[Iterable[object]]]:
    """What the engine itself finds wrong when it computes every derived value anew in SQL."""

    async def findings() -> Iterable[object]:
        report = await audit(app.controller.engine)
        return () if report.clean else (report,)

    return findings


def examples(number: int, url: str = "", *, phases: Sequence[hypothesis.Phase] | None = None) -> hypothesis.settings:
    """Settings with so many examples where the profile has a hundred, and in proportion otherwise.

    Half of them on PostgreSQL, where a commit waits for the disk: the engine is one and the databases are compared.
    """
    profile = hypothesis.settings.default
    number = number // 2 if url.startswith("postgresql") else number
    most = max(1, number * profile.max_examples // 100)
    # A script is data of its own size; what it costs to draw or to run says nothing about the property.
    return hypothesis.settings(
        max_examples=most,
        deadline=None,
        phases=profile.phases if phases is None else phases,
        suppress_health_check=[
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.data_too_large,
            hypothesis.HealthCheck.large_base_example,
        ],
    )
