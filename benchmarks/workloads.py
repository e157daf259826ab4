"""W1 to W10: which contenders meet, on which databases, and what is to be reached.

Decides the targets; leaves the operations to `operations` and the clock to `measure`. Invariant: after each workload every
database that it wrote is audited.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

from benchmarks import blog
from benchmarks import operations as ops
from benchmarks.measure import Contender, Series, compare
from benchmarks.operations import DUTIES, SCORED, Duty
from benchmarks.report import Line, line_of
from benchmarks.sides import Databases, Side, Sizes

Lines = AsyncGenerator[Line]
STORE = {"sqlite": 0.35, "memory": 0.35, "postgresql": 0.8}
DISPATCH = {"sqlite": 0.25, "memory": 0.25, "postgresql": 0.6}
BULK_ROWS = {"sqlite": 100_000, "memory": 100_000, "postgresql": 50_000}
PAGE = 0.6
EFFECT = 0.75
FLAT = 1 / 1.25
CONCURRENT = (1, 8, 32)


async def pair(databases: Databases, sizes: Sizes, name: str) -> Lines:
    """W1 to W5: through `store` and through `dispatch`, beside the single statement on PostgreSQL."""
    async with databases.side(sizes) as ensue, databases.side(sizes) as hand:
        duty = DUTIES[name]
        yield await _through_store(databases, sizes, duty, (name, ensue, hand))
        if duty.dispatch is not None:
            yield await _through_dispatch(databases, sizes, duty, (name, ensue, hand))
        if databases.kind == "postgresql" and duty.once_store is not None:
            yield await _at_once(databases, sizes, duty, (name, hand))
        await ensue.audit()
        await hand.audit()
    if name == "W3":
        scored = partial(databases.side, sizes, integrations=lambda: {"scored": blog.Scored()})
        async with scored() as ensue, scored() as hand:
            yield await _through_dispatch(databases, sizes, SCORED, (name, ensue, hand))
            await ensue.audit()
            await hand.audit()


async def _through_store(databases: Databases, sizes: Sizes, duty: Duty, where: tuple[str, Side, Side]) -> Line:
    name, ensue, hand = where
    assert duty.store is not None
    assert duty.hand_store is not None
    series = await compare(
        {
            "ensue": Contender(ensue, duty.store, duty.prepare),
            "by hand": Contender(hand, duty.hand_store, duty.prepare),
        },
        sizes,
    )
    given = {"workload": name, "database": databases.kind, "what": "store", "target": STORE[databases.kind]}
    return line_of(series, "ensue", "by hand", **given)


async def _through_dispatch(databases: Databases, sizes: Sizes, duty: Duty, where: tuple[str, Side, Side]) -> Line:
    name, ensue, hand = where
    assert duty.dispatch is not None
    assert duty.hand_dispatch is not None
    series = await compare(
        {
            "ensue": Contender(ensue, duty.dispatch, duty.prepare),
            "by hand": Contender(hand, duty.hand_dispatch, duty.prepare),
        },
        sizes,
    )
    given = {"workload": name, "database": databases.kind, "what": "dispatch", "target": DISPATCH[databases.kind]}
    return line_of(series, "ensue", "by hand", **given)


async def _at_once(databases: Databases, sizes: Sizes, duty: Duty, where: tuple[str, Side]) -> Line:
    """How far a single round trip goes, against the steps: the limit for this driver."""
    name, hand = where
    assert duty.once_store is not None
    assert duty.hand_store is not None
    contenders = {
        "one statement": Contender(hand, duty.once_store, duty.prepare),
        "by hand": Contender(hand, duty.hand_store, duty.prepare),
    }
    series = await compare(contenders, sizes)
    note = "the left column is the single hand-written statement"
    return line_of(
        series,
        "one statement",
        "by hand",
        workload=name,
        database=databases.kind,
        what="limit: one statement",
        note=note,
    )


async def bulk(databases: Databases, sizes: Sizes) -> Lines:
    """W6: many comments in one call. The target is in rows per second."""
    async with databases.side(sizes) as ensue, databases.side(sizes) as hand:
        contenders = {
            "ensue": Contender(ensue, ops.bulk_store, ops.bulk_records(sizes.bulk)),
            "by hand": Contender(hand, ops.bulk_hand, ops.bulk_inputs(sizes.bulk)),
        }
        series = await compare(contenders, sizes, count=1)
        own, other = (series.rate(name) * sizes.bulk for name in ("ensue", "by hand"))
        goal = BULK_ROWS[databases.kind]
        yield Line(
            workload="W6",
            database=databases.kind,
            what=f"{sizes.bulk:,} comments",
            unit="row",
            ensue=own,
            hand=other,
            ratio=own / goal,
            target=1.0,
            note=f"ratio to {goal:,} rows/s; to hand-written {series.ratio('ensue', 'by hand'):.2f}",
            cpu=series.ratio("ensue", "by hand", of="processor"),
            statements=series.statements,
        )
        await ensue.audit()
        await hand.audit()


async def page(databases: Databases, sizes: Sizes) -> Lines:
    """W7: a page of twenty posts."""
    async with databases.side(sizes) as ensue, databases.side(sizes) as hand:
        contenders = {
            "ensue": Contender(ensue, ops.page_store, ops.page_inputs),
            "by hand": Contender(hand, ops.page_hand, ops.page_inputs),
        }
        series = await compare(contenders, sizes)
        given = {"workload": "W7", "database": databases.kind, "what": "20 posts", "target": PAGE}
        yield line_of(series, "ensue", "by hand", **given)


async def effect(databases: Databases, sizes: Sizes) -> Lines:
    """W8: against W1 of ensue itself, and against hand-written SQL with the same row enqueued."""
    publisher = partial(databases.side, sizes, integrations=lambda: {"publisher": blog.Publisher()})
    async with databases.side(sizes) as plain, publisher() as ensue, publisher() as hand:
        contenders = {
            "W1": Contender(plain, ops.comment_store, ops.comment_inputs),
            "ensue": Contender(ensue, ops.comment_store, ops.comment_inputs),
            "by hand": Contender(hand, ops.comment_effect_hand, ops.comment_inputs),
        }
        series = await compare(contenders, sizes)
        what = "one durable side effect"
        note = "the right column is W1 of ensue"
        given = {"workload": "W8", "database": databases.kind, "what": what}
        yield line_of(series, "ensue", "W1", **given, target=EFFECT, note=note)
        yield line_of(series, "ensue", "by hand", **given)
        for side in (plain, ensue, hand):
            await side.audit()


async def growth(databases: Databases, sizes: Sizes) -> Lines:
    """W9: creating a comment must not depend on how many its post has."""
    async with databases.side(sizes) as ensue, databases.side(sizes) as hand:
        lengths = [length for length in (100, 1_000, 10_000, 100_000) if length <= sizes.longest]
        for post, length in zip(ensue.posts, lengths, strict=False):
            for side in (ensue, hand):
                await side.comments(length, posts=[post])
        series = await compare(_lengths(ensue, lengths, ops.comment_store), sizes)
        by_hand = await compare(_lengths(hand, lengths, ops.comment_hand), sizes)
        first = str(lengths[0])
        for length in lengths[1:]:
            name = str(length)
            yield Line(
                workload="W9",
                database=databases.kind,
                what=f"{length:,} comments before",
                unit="op",
                ensue=series.rate(name),
                hand=by_hand.rate(name),
                ratio=series.ratio(name, first),
                target=FLAT,
                cpu=series.ratio(name, first, of="processor"),
                note=f"ratio to {first} comments before; hand-written {by_hand.ratio(name, first):.2f}",
            )
        await ensue.audit()
        await hand.audit()


def _lengths(side: Side, lengths: list[int], operate: ops.Operate) -> dict[str, Contender]:
    return {
        str(length): Contender(side, operate, _on_post(post)) for post, length in zip(side.posts, lengths, strict=False)
    }


def _on_post(post: int) -> ops.Prepare:
    async def prepare(side: Side, count: int) -> list[tuple[int, int, int]]:
        return [(post, author, score) for _, author, score in await ops.comment_inputs(side, count)]

    return prepare


async def concurrent(databases: Databases, sizes: Sizes) -> Lines:
    """W10: tasks that dispatch at the same time, with as many connections."""
    pool = max(CONCURRENT)
    async with databases.side(sizes, pool=pool) as ensue, databases.side(sizes, pool=pool) as hand:
        for workers in CONCURRENT:
            contenders = {
                "ensue": Contender(ensue, ops.comment_dispatch, ops.comment_inputs, workers),
                "by hand": Contender(hand, ops.comment_hand_dispatch, ops.comment_inputs, workers),
            }
            series: Series = await compare(contenders, sizes, count=max(200, int(sizes.seconds * 1500)))
            yield line_of(
                series,
                "ensue",
                "by hand",
                workload="W10",
                database=databases.kind,
                what=f"{workers} at once",
                target=1.0 if workers == pool else None,
            )
        await ensue.audit()
        await hand.audit()


Workload = Callable[[Databases, Sizes], Lines]
WORKLOADS: dict[str, Workload] = {
    **{name: partial(pair, name=name) for name in DUTIES},
    "W6": bulk,
    "W7": page,
    "W8": effect,
    "W9": growth,
    "W10": concurrent,
}
ONLY_ON = {"W10": ("postgresql",)}
