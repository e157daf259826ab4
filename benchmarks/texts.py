"""The SQL written by hand, by name: its text (one for both databases where they agree) and whether it gives rows."""

from __future__ import annotations

_MEAN = "mean_score = (mean_score__sum + {score})::float8 * 1.0 / nullif(mean_score__n + {n}, 0)"
_SUMS = "mean_score__sum = mean_score__sum + {score}, mean_score__n = mean_score__n + {n}"
_FLAGS = (
    "flagged = flagged__matching + {flagged} > 0, flagged__matching = flagged__matching + {flagged},"
    " flagged__n = flagged__n + {n}, clean = clean__matching + {n} - {flagged} = clean__n + {n},"
    " clean__matching = clean__matching + {n} - {flagged}, clean__n = clean__n + {n}"
)

_POST_MOVE = (
    "UPDATE post SET comment_count = comment_count + {n}, approved_score = approved_score + {approved}, "
    + _MEAN
    + ", best = {best}, "
    + _FLAGS
    + ", trusted_comments = trusted_comments + {trusted}, "
    + _SUMS
)


def _post_move(**cells: str) -> str:
    return _POST_MOVE.format(**cells)


# A new comment is not approved and not flagged: every amount but its score and trust is known.
_NEW = {"n": "1", "approved": "0", "score": "$2::bigint", "flagged": "0", "trusted": "$3::bigint"}
_BETTER = "CASE WHEN best IS NULL OR {0} > best THEN {0} ELSE best END"

_POST_COMMENT = _post_move(**_NEW, best=_BETTER.format("$2::bigint")) + " WHERE id = $1"
_POST_UNCOMMENT = (
    _post_move(
        n="-1",
        approved="-$2::bigint",
        score="-$3::bigint",
        best="$4::bigint",
        flagged="-$5::bigint",
        trusted="-$6::bigint",
    )
    + " WHERE id = $1"
)
_VECTOR = {
    "n": "$2",
    "approved": "$3",
    "score": "$4",
    "best": _BETTER.format("$5"),
    "flagged": "$6",
    "trusted": "$7",
}
_POST_COMMENT_MANY = (
    _post_move(n="d.n", approved="d.a", score="d.s", best=_BETTER.format("d.b"), flagged="d.f", trusted="d.t")
    + " FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])"
    " AS d(id, n, a, s, b, f, t) WHERE post.id = d.id"
)
_RESCORE = (
    "UPDATE post SET approved_score = approved_score + $2::bigint, "
    + _MEAN.format(score="$3::bigint", n="0")
    + ", best = {best}, trusted_comments = trusted_comments + $5::bigint, mean_score__sum = mean_score__sum + $3::bigint"
    " WHERE id = $1"
)
_INSERT_COMMENT = "INSERT INTO comment (id, text, score, approved, flagged, at, post_id, author_id)"
_LOCK_COMMENT = "SELECT post_id, author_id, score, approved, flagged FROM comment WHERE id = $1"
_FALSE = {"sqlite": "0", "postgresql": "false"}

_ONCE_TAIL = (
    ", p AS ("
    + _post_move(
        n="1",
        approved="0",
        score="$3::bigint",
        best=_BETTER.format("$3::bigint"),
        flagged="0",
        trusted="(u.verified AND $3::bigint > 3)::int",
    )
    + " FROM u WHERE post.id = $5),"
    " s AS (UPDATE site SET total_comments = total_comments + 1, total_score = total_score + $3::bigint WHERE id = 1)"
    " SELECT id FROM c"
)
_ONCE_COMMENT = (
    'WITH u AS (SELECT verified FROM "user" WHERE id = $6 FOR SHARE),'
    f" c AS ({_INSERT_COMMENT} SELECT $1::bigint, $2::text, $3::bigint, false, false, $4::timestamptz, $5::bigint,"
    " $6::bigint FROM u RETURNING id)"
)


def _by_dialect(text: str) -> dict[str, str]:
    return {dialect: text.replace("FALSE", false) for dialect, false in _FALSE.items()}


def _event(table: str, columns: str) -> str:
    names = ["id", "at", *columns.split(", ")]
    values = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    return f"INSERT INTO ensue_event_{table} ({', '.join(names)}) VALUES ({values})"


TEXTS: dict[str, tuple[str | dict[str, str], bool]] = {
    "ids": (
        {
            "sqlite": "INSERT INTO ensue_id_block (table_name, next) VALUES ($1, 1 + $2) "
            "ON CONFLICT (table_name) DO UPDATE SET next = ensue_id_block.next + $2 RETURNING next",
            "postgresql": "SELECT nextval($1::text::regclass) FROM generate_series(1, $2::bigint)",
        },
        True,
    ),
    "author": ('SELECT verified FROM "user" WHERE id = $1 FOR SHARE', True),
    "user.check": ('SELECT 1 FROM "user" WHERE id = $1 FOR SHARE', True),
    "authors": (
        {
            "sqlite": 'SELECT id, verified FROM "user" WHERE id IN (SELECT value FROM json_each($1))',
            "postgresql": 'SELECT id, verified FROM "user" WHERE id = ANY($1::bigint[]) ORDER BY id FOR SHARE',
        },
        True,
    ),
    "comment.insert": (_by_dialect(f"{_INSERT_COMMENT} VALUES ($1, $2, $3, FALSE, FALSE, $4, $5, $6)"), False),
    "comment.insert_many": (
        {
            "sqlite": "SELECT 1",
            "postgresql": f"{_INSERT_COMMENT} SELECT i, t, s, false, false, a, p, u FROM unnest($1::bigint[], $2::text[],"
            " $3::bigint[], $4::timestamptz[], $5::bigint[], $6::bigint[]) AS d(i, t, s, a, p, u)",
        },
        False,
    ),
    "comment.lock": (f"{_LOCK_COMMENT} FOR NO KEY UPDATE", True),
    "comment.lock_to_delete": (f"{_LOCK_COMMENT} FOR UPDATE", True),
    "comment.score": ("UPDATE comment SET score = $2 WHERE id = $1", False),
    "comment.scored": ("UPDATE comment SET score = $2, score__state = 'scored' WHERE id = $1", False),
    "comment.delete": ("DELETE FROM comment WHERE id = $1", False),
    "post.lock": ("SELECT best FROM post WHERE id = $1 FOR NO KEY UPDATE", True),
    "post.lock_many": (
        {
            "sqlite": "SELECT 1",
            "postgresql": "SELECT id FROM post WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE",
        },
        True,
    ),
    "post.best": ("SELECT max(score) FROM comment WHERE post_id = $1", True),
    "post.comment": (_POST_COMMENT, False),
    "post.comment_many": ({"sqlite": "SELECT 1", "postgresql": _POST_COMMENT_MANY}, False),
    "post.move": (_post_move(**_VECTOR) + " WHERE id = $1", False),
    "post.uncomment": (_POST_UNCOMMENT, False),
    "post.rescore": (_RESCORE.format(best="greatest(best, $4::bigint)"), False),
    "post.rescore_best": (_RESCORE.format(best="$4::bigint"), False),
    "post.like": ("UPDATE post SET like_count = like_count + 1 WHERE id = $1", False),
    "site.move": (
        "UPDATE site SET total_comments = total_comments + $1, total_score = total_score + $2 WHERE id = 1",
        False,
    ),
    "effect": ("INSERT INTO ensue_effect (name, key, record, record_id, payload) VALUES ($1, $2, $3, $4, $5)", False),
    "event.add_comment": (_event("add_comment", "text, score, user_id, post_id"), False),
    "event.score_comment": (_event("score_comment", "score, user_id, comment_id"), False),
    "event.like_post": (_event("like_post", "user_id, post_id"), False),
    "event.paid": (_event("pay_order", "user_id, order_id"), False),
    "event.refunded": (_event("refund_order", "user_id, order_id"), False),
    "like.insert": ('INSERT INTO "like" (id, at, user_id, post_id) VALUES ($1, $2, $3, $4)', False),
    "payment.insert": ("INSERT INTO payment_event (id, kind, order_id) VALUES ($1, $2, $3)", False),
    "order.lock": ('SELECT status__state FROM "order" WHERE id = $1 FOR NO KEY UPDATE', True),
    "order.move": ('UPDATE "order" SET status = $2, status__state = $2 WHERE id = $1', False),
    "page.posts": (
        'SELECT p.id, p.title, u.id, u.name FROM post p JOIN "user" u ON u.id = p.author_id ORDER BY p.id DESC LIMIT 20',
        True,
    ),
    "page.comments": (
        {
            "sqlite": "SELECT c.post_id, c.id, c.text FROM json_each($1) p JOIN comment c ON c.id IN"
            " (SELECT id FROM comment WHERE post_id = p.value ORDER BY at DESC, id LIMIT 3)"
            " ORDER BY p.key, c.at DESC, c.id",
            "postgresql": "SELECT p.id, c.id, c.text FROM unnest($1::bigint[]) WITH ORDINALITY AS p(id, n) JOIN LATERAL"
            " (SELECT id, text, at FROM comment WHERE post_id = p.id ORDER BY at DESC, id LIMIT 3) c ON true"
            " ORDER BY p.n, c.at DESC, c.id",
        },
        True,
    ),
    "once.comment": ({"sqlite": "SELECT 1", "postgresql": _ONCE_COMMENT + _ONCE_TAIL}, True),
    "once.add_comment": (
        {
            "sqlite": "SELECT 1",
            "postgresql": _ONCE_COMMENT
            + ", e AS (INSERT INTO ensue_event_add_comment (id, at, text, score, user_id, post_id)"
            " SELECT $7::bigint, $4, $2, $3, $6, $5 FROM u)" + _ONCE_TAIL,
        },
        True,
    ),
    "once.like": (
        {
            "sqlite": "SELECT 1",
            "postgresql": 'WITH l AS (INSERT INTO "like" (id, at, user_id, post_id) VALUES ($1, $2, $3, $4) RETURNING id)'
            " UPDATE post SET like_count = like_count + 1 WHERE id = $4 RETURNING id",
        },
        True,
    ),
    "once.payment": (
        {
            "sqlite": "SELECT 1",
            "postgresql": "WITH e AS (INSERT INTO payment_event (id, kind, order_id) VALUES ($1, $2, $3) RETURNING id),"
            ' o AS (UPDATE "order" SET status = $5::text, status__state = $5::text WHERE id = $3 AND status__state = $4)'
            " SELECT id FROM e",
        },
        True,
    ),
}
"""A dictionary gives the text by dialect. `SELECT 1` stands where a database does it otherwise."""
