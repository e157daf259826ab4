"""`controller.receive`: what a message from outside means is done once, in the transaction that keeps it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ensue import AsUser, Entity, NewRecord, NotFound, Rejected, UsageError
from ensue.app import App
from ensue.store.statement import Run, Statement, Work
from tests.inbound.shop import Order, Pay, Payment, PaymentEvent, User, shop


async def inbox(app: App) -> list[tuple[Any, ...]]:
    def rows() -> Work[list[tuple[Any, ...]]]:
        text = "SELECT endpoint, sender_id, state, attempt, body, headers FROM ensue_inbox ORDER BY id"
        return (yield Run(Statement("test.inbox", text, rows=True)))

    return [tuple(row) for row in await app.controller.engine.driver.read(rows())]


async def test_a_message_is_kept_with_what_it_means(database_url: str) -> None:
    async with shop(database_url) as app:
        receive, store = app.controller.receive, app.controller.store
        order = await store.create(Order(title="x"))
        ann = await store.create(User(name="ann"))
        took = await receive(
            "bank.paid", "m1", AsUser(Pay(order=order, amount=3), ann), body=b"\x00\xff", headers={"a": "ö"}
        )
        assert took is True
        (payment,) = await store.find(Payment)
        assert (payment.amount, payment.by) == (3, ann)
        assert await inbox(app) == [("bank.paid", "m1", "done", 1, b"\x00\xff", '{"a":"ö"}')]


async def test_records_by_class_and_by_name_move_what_listens(database_url: str) -> None:
    async with shop(database_url) as app:
        store = app.controller.store
        orders = await store.create_many([Order(title=title) for title in "abc"])
        a, b, c = (order.id for order in orders)
        assert await app.controller.receive("bank", "1", PaymentEvent(order_number=a))
        assert await app.controller.receive("bank", "2", [NewRecord("PaymentEvent", {"order_number": b}), Pay(order=c)])
        assert await app.controller.receive("bank", "3", None)
        found = await store.find(Order, order_by=[Order.id])
        assert [(order.status, order.payment_count) for order in found] == [("paid", 0), ("paid", 0), ("open", 1)]


async def test_a_duplicate_changes_nothing(database_url: str) -> None:
    async with shop(database_url) as app:
        order = await app.controller.store.create(Order(title="x"))
        took = [await app.controller.receive("bank", "1", PaymentEvent(order_number=order.id)) for _ in range(3)]
        assert took == [True, False, False]
        assert await app.controller.store.count(PaymentEvent) == 1
        # The same id at another endpoint is another message.
        assert await app.controller.receive("post", "1", PaymentEvent(order_number=order.id))


async def test_concurrent_duplicates_are_one_change(database_url: str) -> None:
    async with shop(database_url) as app:
        order = await app.controller.store.create(Order(title="x"))
        deliveries = [app.controller.receive("bank", "1", Pay(order=order)) for _ in range(12)]
        took = await asyncio.gather(*deliveries)
        assert sorted(took) == [False] * 11 + [True]
        assert await app.controller.store.count(Payment) == 1
        assert [row[2:4] for row in await inbox(app)] == [("done", 1)]


async def test_a_repeat_that_would_be_refused_now_is_a_duplicate(database_url: str) -> None:
    async with shop(database_url) as app:
        order = await app.controller.store.create(Order(title="x"))
        assert await app.controller.receive("bank", "1", Pay(order=order))
        assert not await app.controller.receive("bank", "1", Pay(order=order))
        with pytest.raises(Rejected, match="not_allowed"):
            await app.controller.receive("bank", "2", Pay(order=order))


async def test_a_failure_leaves_nothing_and_the_message_may_come_again(database_url: str) -> None:
    async with shop(database_url) as app:
        store = app.controller.store
        order = await store.create(Order(title="x"))
        with pytest.raises(Rejected, match="negative"):
            await app.controller.receive(
                "bank", "1", [PaymentEvent(order_number=order.id), Pay(order=order, amount=-1)]
            )
        with pytest.raises(NotFound):
            await app.controller.receive("bank", "1", [PaymentEvent(order_number=order.id), Pay(order=order.id + 1)])
        assert (await inbox(app), await store.count(PaymentEvent)) == ([], 0)
        assert await app.controller.receive("bank", "1", Pay(order=order))


async def test_a_derived_value_can_not_be_brought_in(database_url: str) -> None:
    async with shop(database_url) as app:
        with pytest.raises(Rejected, match="status"):
            await app.controller.receive("bank", "1", NewRecord("Order", {"title": "x", "status": "paid"}))
        assert await inbox(app) == []


async def test_within_a_transaction_it_shares_its_fate(database_url: str) -> None:
    async with shop(database_url) as app:
        controller = app.controller
        order = await controller.store.create(Order(title="x"))

        async def work() -> None:
            assert await controller.receive("bank", "1", Pay(order=order))
            assert not await controller.receive("bank", "1", Pay(order=order))
            raise LookupError

        with pytest.raises(LookupError):
            await controller.store.run(work)
        assert (await inbox(app), await controller.store.count(Payment)) == ([], 0)


async def test_any_sender_id_can_be_kept(database_url: str) -> None:
    async with shop(database_url) as app:
        for sender_id in ("x" * 5_000, "nul\0", "\ud800", "ö" * 255):
            assert await app.controller.receive("bank", sender_id, None)
            assert not await app.controller.receive("bank", sender_id, None)
            assert await app.controller.receive("bank", sender_id + "y", None)


async def test_what_can_not_come_in_is_refused(sqlite_url: str) -> None:
    async with shop(sqlite_url) as app:
        with pytest.raises(UsageError, match="sender's id"):
            await app.controller.receive("bank", "", None)
        for wrong in ({"a": 1}, "text", [3], Entity):
            with pytest.raises(UsageError, match="expected an interaction"):
                await app.controller.receive("bank", "1", wrong)  # type: ignore[arg-type]
