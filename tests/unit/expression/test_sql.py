"""The text that expressions and statements become, and how values are bound to it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from ensue.errors import InternalError
from ensue.expression import semantics
from ensue.expression.nodes import Call, Children, Column, Constant, Exists, Node, Parameter
from ensue.expression.python import compile_function, evaluator, source
from ensue.expression.sql import ValueColumn, compile_statement, lower

TABLE = sa.Table(
    "post",
    sa.MetaData(),
    sa.Column("n", ValueColumn(semantics.INT)),
    sa.Column("m", ValueColumn(semantics.INT)),
    sa.Column("price", ValueColumn(semantics.decimal(2))),
    sa.Column("title", ValueColumn(semantics.STR)),
)
N = Column((), "n", semantics.INT, optional=True)
M = Column((), "m", semantics.INT, optional=False)


def call(op: Any, *args: Node, type_: Any = semantics.BOOL, optional: bool = False) -> Call:
    return Call(op, args, type_, optional)


def text(node: Node, dialect: Any = "sqlite", *, filter: bool = True) -> str:
    lowered = lower(node, lambda column: TABLE.c[column.field], dialect, filter=filter)
    found = compile_statement(sa.select(sa.literal_column("1")).where(lowered), dialect, "x").statement.text
    return found.split("WHERE ")[1]


def number(value: int) -> Constant:
    return Constant(value, semantics.INT)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_filter_stays_plain_so_that_an_index_serves(dialect: str) -> None:
    assert text(call("eq", N, number(3)), dialect) == "post.n = 3"
    assert text(call("ne", M, number(3)), dialect) == "post.m <> 3"
    assert text(call("gt", N, number(-3)), dialect) == "post.n > (-3)"


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_value_and_a_complement_are_two_valued(dialect: str) -> None:
    assert text(call("eq", N, number(3)), dialect, filter=False) == "(post.n = 3) IS TRUE"
    assert text(call("not", call("eq", N, number(3))), dialect) == "(post.n = 3) IS NOT TRUE"
    assert text(call("ne", N, number(3)), dialect) == "(post.n = 3) IS NOT TRUE"


def test_membership_is_one_parameter() -> None:
    node = call("in", N, Parameter(0, semantics.INT))
    assert "IN (SELECT value" in text(node)
    assert text(node, "postgresql") == "post.n = any($1::BIGINT[])"


def test_text_is_quoted() -> None:
    node = call("eq", Column((), "title", semantics.STR, optional=False), Constant("it's :x %s ?", semantics.STR))
    assert text(node) == "post.title = 'it''s :x %s ?'"
    assert text(node, "postgresql") == "post.title = 'it''s :x %s ?'"


def test_binding_by_name_and_by_row() -> None:
    insert = compile_statement(sa.insert(TABLE), "sqlite", "post.insert", order=["price", "n", "m", "title"])
    assert insert.names == ("price", "n", "m", "title")
    assert insert.bind({"n": 1, "m": None, "price": Decimal("1.50"), "title": "x"}) == (1, None, 150, "x")
    assert insert.bind_row([None, 1, 2, "x"]) == (1, 2, None, "x")
    assert not insert.statement.rows


def test_a_value_in_the_statement_is_bound_by_itself() -> None:
    statement = sa.select(TABLE.c.n).where(TABLE.c.price == Decimal("1.50"), sa.bindparam("n") == TABLE.c.n).limit(5)
    found = compile_statement(statement, "sqlite", "post.find")
    assert found.names == ("n",)
    assert found.bind_row([7]) == found.bind({"n": 7}) == (150, 7, 5, 0)[: found.statement.text.count("?")]
    assert found.statement.rows


def test_returning_has_rows() -> None:
    assert compile_statement(sa.insert(TABLE).returning(TABLE.c.n), "postgresql", "x").statement.rows


def test_a_list_that_changes_the_text_is_refused() -> None:
    with pytest.raises(InternalError, match="pass it as one parameter"):
        compile_statement(sa.select(TABLE).where(TABLE.c.n.in_([1, 2])), "sqlite", "x")


def test_an_order_without_a_needed_value_is_refused() -> None:
    with pytest.raises(InternalError, match=r"needs the values \['m', 'price', 'title'\]"):
        compile_statement(sa.insert(TABLE), "sqlite", "x", order=["n"])


def test_python_source_tests_for_null_only_where_it_can_be() -> None:
    constants: dict[str, Any] = {}
    assert source(call("gt", M, number(3)), lambda column: column.field, constants) == "(m > 3)"
    assert source(call("eq", N, number(3)), lambda column: column.field, constants) == "(n == 3)"
    assert source(call("gt", N, number(3)), lambda column: column.field, constants) == "(n is not None and n > 3)"
    assert not constants


def test_evaluator_takes_a_row() -> None:
    node = call("add", M, number(2), type_=semantics.INT)
    assert evaluator(node, lambda column: f"row[{column.field!r}]")({"m": 40}) == 42


def test_generated_source_that_is_no_python_is_shown() -> None:
    with pytest.raises(InternalError, match="def f"):
        compile_function("f", ("x",), "x +")
    with pytest.raises(InternalError, match="Parameter can't be evaluated in Python"):
        source(Parameter(0, semantics.INT), lambda column: column.field, {})


def test_a_users_own_query_encodes_and_decodes_as_ensue_does() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        TABLE.metadata.create_all(connection)
        connection.execute(sa.insert(TABLE), [{"n": 1, "m": 2, "price": Decimal("1.50"), "title": "x"}])
        assert connection.execute(sa.text("SELECT price FROM post")).scalar_one() == 150
        found = connection.execute(sa.select(TABLE.c.price).where(TABLE.c.price > Decimal("1.49"))).scalar_one()
    engine.dispose()
    assert str(found) == "1.50"


def test_exists_is_lowered_by_the_caller() -> None:
    node = Exists((Children("Comment", "post"),), None, semantics.BOOL)
    comment = sa.table("comment", sa.column("post_id"))

    def exists(found: Exists) -> sa.ColumnElement[bool]:
        assert found == node
        return sa.exists(sa.literal_column("1")).where(TABLE.c.n == comment.c.post_id)

    lowered = lower(call("not", node), lambda column: TABLE.c[column.field], "sqlite", exists, filter=True)
    found = compile_statement(sa.select(TABLE.c.n).where(lowered), "sqlite", "x").statement.text
    assert " ".join(found.split()) == (
        "SELECT post.n FROM post WHERE NOT (EXISTS (SELECT 1 FROM comment WHERE post.n = comment.post_id))"
    )
