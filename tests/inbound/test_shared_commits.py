"""Messages that wait at the same moment share a commit; each is as if it had been alone."""

from __future__ import annotations

import asyncio
from collections import Counter

from ensue import NewRecord, Rejected
from ensue.app import App
from ensue.store.statement import Statement
from tests.inbound.shop import Order, PaymentEvent, shop
from tests.inbound.test_receive import inbox

MESSAGES = 60


def transactions(app: App) -> Counter[str]:
    """How many there are from now on, by their beginning."""
    begun: Counter[str] = Counter()

    def observe(statement: Statement, count: int) -> None:
        begun.update([statement.text.split(maxsplit=1)[0].upper()])

    app.controller.engine.driver.observers.append(observe)
    return begun


async def test_those_that_wait_share_commits(database_url: str) -> None:
    async with shop(database_url) as app:
        orders = await app.controller.store.create_many([Order(title=f"{n}") for n in range(MESSAGES)])
        begun = transactions(app)
        took = await asyncio.gather(
            *(app.controller.receive("bank", f"{n}", PaymentEvent(order_number=orders[n].id)) for n in range(MESSAGES))
        )
        assert took == [True] * MESSAGES
        assert begun["COMMIT"] < MESSAGES / 4
        assert {order.status for order in await app.controller.store.find(Order)} == {"paid"}
        assert [row[1] for row in sorted(await inbox(app), key=lambda row: int(row[1]))] == [
            str(n) for n in range(MESSAGES)
        ]


async def test_repeats_and_refusals_among_them_concern_nobody_else(database_url: str) -> None:
    async with shop(database_url) as app:
        wrong = {n for n in range(MESSAGES) if n % 17 == 5}
        receive = app.controller.receive
        took = await asyncio.gather(
            *(
                receive(
                    "bank",
                    f"{n % MESSAGES}",
                    NewRecord("PaymentEvent", {"order_number": "no" if n % MESSAGES in wrong else n}),
                )
                for n in range(2 * MESSAGES)
            ),
            return_exceptions=True,
        )
        first, second = took[:MESSAGES], took[MESSAGES:]
        for n in range(MESSAGES):
            if n in wrong:
                assert isinstance(first[n], Rejected)
                assert isinstance(second[n], Rejected)
            else:
                assert {first[n], second[n]} == {True, False}
        assert {row[2:4] for row in await inbox(app)} == {("done", 1)}
        assert await app.controller.store.count(PaymentEvent) == MESSAGES - len(wrong)


async def test_two_processes_take_each_message_once(database_url: str) -> None:
    async with shop(database_url) as one:
        orders = await one.controller.store.create_many([Order(title=f"{n}") for n in range(MESSAGES)])
        async with shop(database_url) as other:
            took = await asyncio.gather(
                *(
                    app.controller.receive("bank", f"{n}", PaymentEvent(order_number=orders[n].id))
                    for n in range(MESSAGES)
                    for app in (one, other)
                )
            )
        assert Counter(took) == {True: MESSAGES, False: MESSAGES}
        assert await one.controller.store.count(PaymentEvent) == MESSAGES


async def test_a_message_that_means_much_keeps_nobody_waiting(sqlite_url: str) -> None:
    async with shop(sqlite_url) as app:
        many = [PaymentEvent(order_number=n) for n in range(9)]
        begun = transactions(app)
        await asyncio.gather(*(app.controller.receive("bank", f"{n}", many) for n in range(4)))
        assert begun["COMMIT"] == 4
