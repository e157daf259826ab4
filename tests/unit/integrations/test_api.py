"""What an API call accepts, and how a refused payload is answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import pytest

from ensue.errors import DeclarationError, InvalidValue, Rejected
from ensue.integrations.api import API, api
from ensue.integrations.contract import Integration, apis_of
from ensue.schema.interaction import Context


class Range(msgspec.Struct):
    first: int
    last: int = 9


@dataclass
class Status:
    state: str


class Tasks(Integration):
    @api()
    async def query_status(
        self,
        ctx: Context,
        task_id: int,
        *,
        within: Range | None = None,
        tags: list[str] = [],  # noqa: B006 - defaults like this are to work
    ) -> Status:
        """The state of a task."""
        return Status(f"{ctx.user} {task_id} {within} {tags}")

    @api(allow_anonymous=True)
    async def ping(self, ctx: Context) -> str:
        return "pong"

    def create_apis(self) -> list[API]:
        return [API("echo", self.echo)]

    async def echo(self, ctx: Context, text: str) -> str:
        return text


def test_forgotten_parentheses_are_told() -> None:
    async def ping(self: Any, ctx: Context) -> str:
        return "pong"

    with pytest.raises(DeclarationError, match=r"@api was given <function .*ping.*Write @api\(\) with parentheses"):
        api(ping)  # type: ignore[arg-type]


def calls() -> dict[str, API]:
    return {call.name: call for call in apis_of(Tasks())}


def test_decorated_calls_come_first_in_the_order_of_definition() -> None:
    found = calls()
    assert list(found) == ["query_status", "ping", "echo"]
    query = found["query_status"]
    assert [(item.name, item.required) for item in query.parameters] == [
        ("task_id", True),
        ("within", False),
        ("tags", False),
    ]
    assert query.result is Status
    assert query.description == "The state of a task."
    assert query.allow_anonymous is False
    assert found["ping"].allow_anonymous is True
    assert found["ping"].result is str


async def test_a_payload_is_converted_to_the_declared_types() -> None:
    given = {"task_id": 7, "within": {"first": 1}, "tags": ["a"]}
    answer = await calls()["query_status"].call(Context(user="ann"), given)
    assert answer == Status("ann 7 Range(first=1, last=9) ['a']")


async def test_every_wrong_field_is_named() -> None:
    with pytest.raises(InvalidValue) as caught:
        await calls()["query_status"].call(Context(user="ann"), {"within": {"first": "x"}, "tags": 3, "other": 1})
    assert set(caught.value.fields) == {"task_id", "within", "tags", "other"}
    assert "is missing; expected int" in caught.value.fields["task_id"]
    assert "$.first" in caught.value.fields["within"]
    assert "takes tags, task_id, within" in caught.value.fields["other"]
    assert "task_id: is missing" in caught.value.message


@pytest.mark.parametrize("task_id", ["7", 7.5, True, None])
async def test_nothing_is_coerced_that_json_tells_apart(task_id: object) -> None:
    with pytest.raises(InvalidValue, match="task_id"):
        await calls()["query_status"].call(Context(user="ann"), {"task_id": task_id})


class Planner(Integration):
    @api()
    async def plan(
        self, ctx: Context, at: datetime, until: datetime | None = None, days: dict[str, list[datetime]] | None = None
    ) -> str:
        return f"{at} {until} {days}"


async def test_an_instant_must_say_its_zone() -> None:
    plan = apis_of(Planner())[0]
    good, naive = "2026-01-01T00:00:00Z", "2026-01-01T00:00:00"
    assert await plan.call(Context(user="ann"), {"at": good, "until": good, "days": {"mon": [good]}})
    assert plan.check({"at": good, "until": None})["until"] is None
    with pytest.raises(InvalidValue) as caught:
        plan.check({"at": naive, "until": naive, "days": {"mon": [good, naive]}})
    assert set(caught.value.fields) == {"at", "until", "days"}
    assert "timezone" in caught.value.fields["days"]


@pytest.mark.parametrize("payload", [{"task_id": 2**63}, {"task_id": 1, "within": {"first": -(2**63) - 1}}])
async def test_integers_have_64_bits(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="integers have 64 bits"):
        await calls()["query_status"].call(Context(user="ann"), payload)


async def test_anonymous_callers_are_refused_unless_allowed() -> None:
    with pytest.raises(Rejected) as caught:
        await calls()["query_status"].call(Context(), {"task_id": 7})
    assert caught.value.reason == "not_authenticated"
    assert await calls()["ping"].call(Context(), {}) == "pong"


def test_the_payload_type_describes_itself_for_openapi() -> None:
    schemas = msgspec.json.schema(calls()["query_status"].payload)
    described = schemas["$defs"]["QueryStatusParameters"]
    assert described["required"] == ["task_id"]
    assert set(described["properties"]) == {"task_id", "within", "tags"}


def test_types_of_the_enclosing_function_are_found() -> None:
    class Local(msgspec.Struct):
        n: int

    class Here(Integration):
        @api()
        async def take(self, ctx: Context, item: Local) -> Local:
            return item

    assert apis_of(Here())[0].result is Local


async def not_async_context() -> None: ...


async def without_context(task_id: int) -> None: ...


async def untyped(ctx: Context, thing) -> None: ...  # type: ignore[no-untyped-def]


async def starred(ctx: Context, *things: int) -> None: ...


async def opaque(ctx: Context, thing: Tasks) -> None: ...


async def unknown(ctx: Context, thing: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def not_async(ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (not_async_context, "takes no Context"),
        (without_context, "takes no Context"),
        (untyped, "parameter thing without a type"),
        (starred, "named fields only"),
        (opaque, "take its id"),
        (unknown, "'Nowhere', which can't be evaluated"),
        (not_async, "Write `async def`"),
    ],
)
def test_functions_that_cannot_be_offered_are_refused_with_advice(function: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as caught:
        API("call", function)
    origin = caught.value.problems[0].origin
    assert origin is not None
    assert origin.file == __file__


def test_who_may_call_is_said_with_true_or_false() -> None:
    async def ping(ctx: Context) -> None: ...

    word: Any = "no"
    with pytest.raises(DeclarationError, match="has allow_anonymous='no'; expected True or False"):
        API("ping", ping, allow_anonymous=word)
