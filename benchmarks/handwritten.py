"""The blog's duties in SQL written by hand, step by step, as a careful engineer would without a framework.

Every function is work for the same driver as ensue's. Ids come in blocks; what is read to be written or relied on is locked
first; hosts are locked before their edges are read again, in a later statement. Invariant: an audit of the database that this
code wrote finds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from benchmarks.texts import TEXTS
from ensue.store.driver import Dialect
from ensue.store.statement import Run, Statement, Work

BLOCK = 64


def translate(text: str, dialect: Dialect) -> str:
    """The texts are PostgreSQL's; for SQLite parameters change, and what it lacks is left out."""
    if dialect == "postgresql":
        return text
    text = re.sub(r"::[a-z0-9]+(\[\])?", "", text)
    text = re.sub(r" FOR (NO KEY UPDATE|UPDATE|SHARE)", "", text)
    return re.sub(r"\$(\d+)", r"?\1", text).replace("greatest(", "max(")


@dataclass(slots=True)
class Move:
    """What one change of comments does to a post."""

    comments: int = 0
    approved: int = 0
    score: int = 0
    flagged: int = 0
    trusted: int = 0
    best: int | None = None

    def add(self, score: int, *, approved: bool, flagged: bool, verified: bool) -> None:
        """Take a new comment in."""
        self.comments += 1
        self.score += score
        self.approved += score if approved else 0
        self.flagged += flagged
        self.trusted += verified and score > 3
        self.best = score if self.best is None or score > self.best else self.best

    def values(self) -> tuple[Any, ...]:
        """In the order of the statement's parameters."""
        return (self.comments, self.approved, self.score, self.best, self.flagged, self.trusted)


@dataclass(slots=True)
class Handwritten:
    """The statements in one dialect, and the blocks of ids that this process holds."""

    dialect: Dialect
    free: dict[str, list[range]] = field(default_factory=dict[str, list[range]])
    statements: dict[str, Statement] = field(default_factory=dict[str, Statement])

    def __post_init__(self) -> None:
        for name, (text, rows) in TEXTS.items():
            chosen = text if isinstance(text, str) else text[self.dialect]
            self.statements[name] = Statement(f"hand.{name}", translate(chosen, self.dialect), rows=rows)

    def run(self, name: str, *params: Any) -> Run:
        return Run(self.statements[name], params)

    def at(self, when: datetime) -> Any:
        return when if self.dialect == "postgresql" else int(when.timestamp() * 1_000_000)

    def ids(self, table: str, count: int) -> Work[list[int]]:
        """`count` ids, from blocks of 64 unless more are wanted at once."""
        blocks = self.free.setdefault(table, [])
        found: list[int] = []
        while len(found) < count:
            if not blocks:
                blocks.extend((yield from self._blocks(table, count - len(found))))
            block = blocks.pop(0)
            wanted = count - len(found)
            found.extend(block[:wanted])
            if len(block) > wanted:
                blocks.insert(0, block[wanted:])
        return found

    def _blocks(self, table: str, wanted: int) -> Work[list[range]]:
        if self.dialect == "sqlite":
            size = max(BLOCK, wanted)
            ((after,),) = yield self.run("ids", table, size)
            return [range(after - size, after)]
        starts: list[tuple[int]] = yield self.run("ids", f'"ensue_id_{table}"', -(-wanted // BLOCK))
        return [range(start, start + BLOCK) for (start,) in starts]

    # --- Comments -------------------------------------------------------------------------------------------------------

    def comment(self, post: int, author: int, *, text: str, score: int, at: datetime) -> Work[int]:
        """W1."""
        ((verified,),) = yield self.run("author", author)
        (id_,) = yield from self.ids("comment", 1)
        yield self.run("comment.insert", id_, text, score, self.at(at), post, author)
        yield self.run("post.comment", post, score, int(bool(verified) and score > 3))
        yield self.run("site.move", 1, score)
        return id_

    def comment_with_effect(self, post: int, author: int, *, text: str, score: int, at: datetime) -> Work[int]:
        """W8: with a row for whoever delivers."""
        id_ = yield from self.comment(post, author, text=text, score=score, at=at)
        record = {
            "id": id_,
            "text": text,
            "score": score,
            "approved": False,
            "flagged": False,
            "at": at,
            "post": post,
            "author": author,
        }
        payload = msgspec.json.encode({"v": 1, "type": "create", "record_name": "Comment", "record": record}).decode()
        yield self.run("effect", "publisher.publish", f"hand:Comment:{id_}:create", "Comment", id_, payload)
        return id_

    def add_comment(self, post: int, user: int, *, text: str, score: int, at: datetime) -> Work[int]:
        """W1 as an event: its references are checked, it is stored, the comment follows."""
        ((verified,),) = yield self.run("author", user)
        ((_,),) = yield self.run("post.lock", post)
        (event,) = yield from self.ids("ensue_event_add_comment", 1)
        yield self.run("event.add_comment", event, self.at(at), text, score, user, post)
        (id_,) = yield from self.ids("comment", 1)
        yield self.run("comment.insert", id_, text, score, self.at(at), post, user)
        yield self.run("post.comment", post, score, int(bool(verified) and score > 3))
        yield self.run("site.move", 1, score)
        return id_

    def rescore(self, comment: int, score: int) -> Work[None]:
        """W3."""
        ((post, author, old, approved, _),) = yield self.run("comment.lock", comment)
        if score == old:
            return
        yield self.run("comment.score", comment, score)
        yield from self._rescored(post, author, old=old, new=score, approved=approved)

    def score_comment(self, comment: int, score: int, user: int, at: datetime) -> Work[None]:
        """W3 as an event that moves a state machine."""
        ((_,),) = yield self.run("user.check", user)
        ((post, author, old, approved, _),) = yield self.run("comment.lock", comment)
        (event,) = yield from self.ids("ensue_event_score_comment", 1)
        yield self.run("event.score_comment", event, self.at(at), score, user, comment)
        yield self.run("comment.scored", comment, score)
        if score != old:
            yield from self._rescored(post, author, old=old, new=score, approved=approved)

    def _rescored(self, post: int, author: int, *, old: int, new: int, approved: bool) -> Work[None]:
        ((verified,),) = yield self.run("author", author)
        trusted = int(bool(verified) and new > 3) - int(bool(verified) and old > 3)
        best: int | None = new
        if new < old:
            ((best,),) = yield self.run("post.lock", post)
            if best is not None and old >= best:
                ((best,),) = yield self.run("post.best", post)
        name = "post.rescore" if new > old else "post.rescore_best"
        yield self.run(name, post, new - old if approved else 0, new - old, best, trusted)
        yield self.run("site.move", 0, new - old)

    def delete_comment(self, comment: int) -> Work[None]:
        """W4."""
        ((post, author, score, approved, flagged),) = yield self.run("comment.lock_to_delete", comment)
        ((verified,),) = yield self.run("author", author)
        yield self.run("comment.delete", comment)
        ((best,),) = yield self.run("post.lock", post)
        if best is not None and score >= best:
            ((best,),) = yield self.run("post.best", post)
        trusted = int(bool(verified) and score > 3)
        flag = int(flagged)
        yield self.run("post.uncomment", post, score if approved else 0, score, best, flag, trusted)
        yield self.run("site.move", -1, -score)

    def comment_many(self, rows: Sequence[tuple[str, int, datetime, int, int]]) -> Work[list[int]]:
        """W6: rows of (text, score, at, post, author)."""
        authors = sorted({row[4] for row in rows})
        found: list[tuple[int, bool]] = yield self.run("authors", self._list(authors))
        verified = dict(found)
        ids = yield from self.ids("comment", len(rows))
        at = self.at(rows[0][2])
        flat = [
            (id_, text, score, at, post, author) for id_, (text, score, _, post, author) in zip(ids, rows, strict=True)
        ]
        if self.dialect == "postgresql":
            yield self.run("comment.insert_many", *zip(*flat, strict=True))
        else:
            yield Run(self.statements["comment.insert"], flat, many=True)
        moves: dict[int, Move] = {}
        total = 0
        for _, score, _, post, author in rows:
            total += score
            move = moves.get(post)
            if move is None:
                move = moves[post] = Move()
            move.add(score, approved=False, flagged=False, verified=bool(verified[author]))
        posts = sorted(moves)
        vectors = [(post, *moves[post].values()) for post in posts]
        if self.dialect == "postgresql":
            yield self.run("post.lock_many", posts)
            yield self.run("post.comment_many", *zip(*vectors, strict=True))
        else:
            yield Run(self.statements["post.move"], vectors, many=True)
        yield self.run("site.move", len(rows), total)
        return ids

    def _list(self, ids: list[int]) -> Any:
        return ids if self.dialect == "postgresql" else f"[{','.join(map(str, ids))}]"

    # --- Likes and orders -----------------------------------------------------------------------------------------------

    def like(self, user: int, post: int, at: datetime) -> Work[None]:
        """W2."""
        (id_,) = yield from self.ids("like", 1)
        yield self.run("like.insert", id_, self.at(at), user, post)
        yield self.run("post.like", post)

    def like_post(self, user: int, post: int, at: datetime) -> Work[None]:
        """W2 as an event."""
        ((_,),) = yield self.run("user.check", user)
        ((_,),) = yield self.run("post.lock", post)
        (event,) = yield from self.ids("ensue_event_like_post", 1)
        yield self.run("event.like_post", event, self.at(at), user, post)
        yield from self.like(user, post, at)

    def payment(self, order: int, kind: str) -> Work[None]:
        """W5."""
        (id_,) = yield from self.ids("payment_event", 1)
        yield self.run("payment.insert", id_, kind, order)
        yield from self._move_order(order, kind)

    def pay_order(self, order: int, kind: str, user: int, at: datetime) -> Work[None]:
        """W5 as an event."""
        ((_,),) = yield self.run("user.check", user)
        ((state,),) = yield self.run("order.lock", order)
        table = "ensue_event_pay_order" if kind == "paid" else "ensue_event_refund_order"
        (id_,) = yield from self.ids(table, 1)
        yield self.run(f"event.{kind}", id_, self.at(at), user, order)
        yield from self._write_state(order, state, kind)

    def _move_order(self, order: int, kind: str) -> Work[None]:
        ((state,),) = yield self.run("order.lock", order)
        yield from self._write_state(order, state, kind)

    def _write_state(self, order: int, state: str, kind: str) -> Work[None]:
        before, after = ("pending", "paid") if kind == "paid" else ("paid", "pending")
        if state == before:
            yield self.run("order.move", order, after)

    # --- Reading --------------------------------------------------------------------------------------------------------

    def page(self) -> Work[list[PostView]]:
        """W7: twenty posts with their authors, and the last three comments of each."""
        posts: list[Any] = yield self.run("page.posts")
        views = {id_: PostView(id_, title, UserView(author, name), []) for id_, title, author, name in posts}
        found: list[Any] = yield self.run("page.comments", self._list(list(views)))
        for post, id_, text in found:
            views[post].comments.append(CommentView(id_, text))
        return list(views.values())

    # --- One statement, one round trip (PostgreSQL) -----------------------------------------------------------------------

    def comment_at_once(self, id_: int, post: int, author: int, *, text: str, score: int, at: datetime) -> Work[None]:
        """W1 in one data-modifying statement."""
        ((_,),) = yield self.run("once.comment", id_, text, score, at, post, author)

    def add_comment_at_once(
        self, ids: tuple[int, int], post: int, user: int, *, text: str, score: int, at: datetime
    ) -> Work[None]:
        """W1 as an event in one statement."""
        ((_,),) = yield self.run("once.add_comment", ids[0], text, score, at, post, user, ids[1])

    def like_at_once(self, id_: int, user: int, post: int, at: datetime) -> Work[None]:
        """W2 in one statement."""
        ((_,),) = yield self.run("once.like", id_, at, user, post)

    def payment_at_once(self, id_: int, order: int, kind: str) -> Work[None]:
        """W5 in one statement."""
        before, after = ("pending", "paid") if kind == "paid" else ("paid", "pending")
        ((_,),) = yield self.run("once.payment", id_, kind, order, before, after)


@dataclass(slots=True)
class UserView:
    """An author on a page."""

    id: int
    name: str


@dataclass(slots=True)
class CommentView:
    """A comment on a page."""

    id: int
    text: str


@dataclass(slots=True)
class PostView:
    """A post on a page."""

    id: int
    title: str
    author: UserView
    comments: list[CommentView]
