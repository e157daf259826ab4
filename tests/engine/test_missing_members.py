"""A collection whose members are behind an optional link: without a member its columns are null, and what is computed of them."""

from __future__ import annotations

from ensue import App, Average, Count, Entity, EveryOf, Many, Max, Maybe, Property, Sum, Through
from ensue.engine.audit import audit


class Node(Entity):
    weight: Property[int]
    parent: Maybe[Node] = Maybe(default=None)
    children = Many(lambda: Node, inverse="parent")
    parents = Through(children, lambda child: child.parent)

    share = Average(parents, lambda node: 1.0 / node.weight)
    doubled = Sum(parents, lambda node: (node.weight + 1) * 2)
    largest = Max(parents, lambda node: -(node.weight - 3))
    heavy = Count(parents, where=lambda node: ~(node.weight + 1 < 3))
    all_heavy = EveryOf(parents, lambda node: node.weight + 1 > 2)


async def test_values_computed_of_a_member_that_is_gone(database_url: str) -> None:
    async with App(entities=[Node], database=database_url).run(deliver=False) as run:
        store = run.controller.store
        root, _, child = await store.create_many([Node(weight=1), Node(weight=2), Node(weight=4)])
        await store.update(Node, child.id, parent=root)
        root = await store.get(Node, root.id)
        assert (root.share, root.doubled, root.largest, root.heavy, root.all_heavy) == (1.0, 4, 2, 0, False)

        await store.update_many(Node, Node.id > 0, weight=2, parent=None)
        await store.create(Node(weight=3))
        for node in await store.find(Node):
            assert (node.share, node.doubled, node.largest, node.heavy, node.all_heavy) == (None, 0, None, 0, True)
        assert (await audit(run.controller.engine)).clean
