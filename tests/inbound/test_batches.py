"""A batch in which one message is bad: wherever it stands, the others are handled, and it alone is kept as failed."""

from __future__ import annotations

import itertools

from ensue import Inbound
from ensue.clock import EPOCH
from ensue.effects.inbox import list_messages
from ensue.integrations.inbound.handling import DONE, KNOWN, Failed
from ensue.integrations.inbound.message import Headers
from tests.inbound.payments import ENV, Bank
from tests.inbound.shop import Order, PaymentEvent, User, shop

ENDPOINT = "bank.paid"


def message(number: int, body: bytes, *, headers: Headers | None = None) -> Inbound:
    return Inbound(f"m{number}", body, headers or Headers(), EPOCH, ENDPOINT)


BAD = (b"no json", b'{"order": "text"}', b'{"order": 1, "user": 1, "amount": -1}')


async def test_one_bad_message_strands_no_other(database_url: str) -> None:
    async with shop(database_url, integrations={"bank": Bank()}).run(deliver=False, env=ENV) as run:
        await run.controller.store.create_many([Order(title="x"), User(name="a")])
        for case, (position, bad) in enumerate(itertools.product(range(4), BAD)):
            bodies = [b'{"order": 1}'] * 4
            bodies[position] = bad
            messages = [message(10 * case + n, body) for n, body in enumerate(bodies)]
            taken = await run.inbox.handling.take_many(messages)
            assert [isinstance(how, Failed) for how in taken] == [n == position for n in range(4)]
            assert await run.controller.store.count(PaymentEvent) == 3 * (case + 1)
            newest = await list_messages(run.driver, limit=4)
            found = {item.sender_id: item.state for item in newest}
            assert found == {f"m{10 * case + n}": "failed" if n == position else "done" for n in range(4)}
            again = await run.inbox.handling.take_many(messages)
            assert [how for how in again if not isinstance(how, Failed)] == [KNOWN] * 3


async def test_a_repeat_within_a_batch_is_known(database_url: str) -> None:
    async with shop(database_url, integrations={"bank": Bank()}).run(deliver=False, env=ENV) as run:
        messages = [message(number, b'{"order": 1}') for number in (1, 2, 1)]
        assert await run.inbox.handling.take_many(messages) == [DONE, DONE, KNOWN]
        assert await run.controller.store.count(PaymentEvent) == 2


async def test_headers_that_are_no_text_can_be_kept(database_url: str) -> None:
    async with shop(database_url, integrations={"bank": Bank()}).run(deliver=False, env=ENV) as run:
        odd = Headers({"a\ud800": "b\udfff\0"})
        assert await run.inbox.handling.take(message(1, b"\xff\0", headers=odd)) != DONE
        assert await run.inbox.handling.take(message(2, b"{}", headers=odd)) == DONE
