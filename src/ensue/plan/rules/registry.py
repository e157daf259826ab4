"""Which rule maintains which aggregate."""

from ensue.errors import InternalError
from ensue.expression.nodes import Node
from ensue.expression.types import ValueType
from ensue.plan.rules.counting import CountRule, QuantifierRule
from ensue.plan.rules.extremum import ExtremumRule
from ensue.plan.rules.rule import Rule
from ensue.plan.rules.summing import AverageRule, SumRule
from ensue.schema.model import Aggregate
from ensue.store.driver import Dialect


def rule_for(aggregate: Aggregate, dialect: Dialect) -> Rule:
    """The rule that keeps `aggregate` right in a database of `dialect`."""
    match aggregate.kind:
        case "count":
            return CountRule()
        case "any" | "every":
            return QuantifierRule(every=aggregate.kind == "every")
        case "sum":
            return SumRule(_value_type(aggregate.value), dialect)
        case "average":
            return AverageRule(_value_type(aggregate.value), dialect)
        case "min" | "max":
            return ExtremumRule(aggregate.kind, _value_type(aggregate.value))


def _value_type(value: Node | None) -> ValueType:
    if value is None:
        raise InternalError("An aggregate that needs a value has none: the model was not checked.")
    return value.type
