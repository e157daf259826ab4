"""Where the settings of integrations come from, and how all that is missing or wrong is reported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from typing import Any, ClassVar, Literal

import pytest

from ensue.clock import ManualClock
from ensue.errors import DeclarationError, UsageError
from ensue.integrations.contract import Integration, Surroundings
from ensue.integrations.handles import Handles
from ensue.integrations.running.lifecycle import IntegrationSet
from ensue.integrations.settings.environment import env


class Quality(Enum):
    LOW = "low"
    HIGH = "high"


class Pictures(Integration):
    kind: ClassVar[str] = "pictures"
    api_key: str = env("PICTURES_API_KEY")
    domain: str = env("PICTURES_DOMAIN", default="pictures.example")
    timeout: timedelta = env("PICTURES_TIMEOUT", default=timedelta(seconds=30))
    quality: Quality = env("PICTURES_QUALITY", default=Quality.LOW)
    mode: Literal["fast", "exact"] = env("PICTURES_MODE", default="fast")
    regions: list[str] = env("PICTURES_REGIONS", default=[])
    proxy: str | None = env("PICTURES_PROXY")
    retries: int = 3


class Mail(Integration):
    server: str = env("MAIL_SERVER")
    port: int = env("MAIL_PORT", default=25)
    sender: str


def started(environ: Mapping[str, str], **integrations: Integration) -> IntegrationSet:
    found = IntegrationSet(integrations, Surroundings(Handles(), ManualClock()))
    found.attach()
    found.resolve_settings(environ)
    return found


def test_constructor_then_environment_then_default() -> None:
    given = Pictures(api_key="k", quality=Quality.HIGH)
    started({"PICTURES_API_KEY": "other", "PICTURES_TIMEOUT": "5s", "PICTURES_REGIONS": "eu,us"}, pictures=given)
    assert given.api_key == "k"
    assert given.quality is Quality.HIGH
    assert given.timeout == timedelta(seconds=5)
    assert given.regions == ["eu", "us"]
    assert given.domain == "pictures.example"
    assert given.proxy is None
    assert given.retries == 3


def test_everything_missing_or_wrong_in_all_integrations_is_one_error() -> None:
    with pytest.raises(DeclarationError) as caught:
        started(
            {"PICTURES_QUALITY": "medium", "PICTURES_TIMEOUT": "soon", "MAIL_PORT": "x"},
            pictures=Pictures(mode="slow"),  # type: ignore[arg-type]
            mail=Mail(),  # type: ignore[call-arg]
        )
    text = str(caught.value)
    assert len(caught.value.problems) == 7
    assert "pictures (Pictures).api_key is not set. Expected str in the environment variable PICTURES_API_KEY" in text
    assert "PICTURES_QUALITY, found 'medium'; expected one of LOW, HIGH, low, high" in text
    assert "PICTURES_TIMEOUT, found 'soon'; expected a duration" in text
    assert (
        "pictures (Pictures).mode was given 'slow' (str) in the constructor; expected Literal['fast', 'exact']" in text
    )
    assert "mail (Mail).server is not set" in text
    assert "mail (Mail).port reads the environment variable MAIL_PORT, found 'x'; expected a whole number" in text
    assert "mail (Mail).sender has no value. Expected str as sender=... in the constructor" in text
    assert all(problem.origin is not None and problem.origin.file == __file__ for problem in caught.value.problems)


def test_an_empty_variable_is_not_set() -> None:
    with pytest.raises(DeclarationError, match="api_key is not set"):
        started({"PICTURES_API_KEY": ""}, pictures=Pictures())


def test_secrets_are_in_no_repr_and_no_message() -> None:
    class Store(Integration):
        token_count: int = env("TOKENS")
        url: str = env("STORE_URL")
        phrase: str = env("STORE_PHRASE", secret=True)
        public_key: str = env("STORE_PUBLIC", secret=False)

    with pytest.raises(DeclarationError) as caught:
        started({"TOKENS": "hunter2", "STORE_URL": "x", "STORE_PHRASE": "x", "STORE_PUBLIC": "x"}, store=Store())
    assert "hunter2" not in str(caught.value)

    store = Store(token_count=1)
    environ = {"STORE_URL": "redis://ann:hunter2@db:1/0", "STORE_PHRASE": "hunter2", "STORE_PUBLIC": "pk"}
    started(environ, store=store)
    assert store.url == "redis://ann:hunter2@db:1/0"
    assert "hunter2" not in repr(store)
    assert "ann:<hidden>@db:1" in repr(store)
    assert "phrase=<hidden>" in repr(store)
    assert "public_key='pk'" in repr(store)


def test_a_setting_read_before_the_start_says_when_it_can_be_read() -> None:
    with pytest.raises(UsageError, match=r"Pictures\.api_key has no value yet: .*PICTURES_API_KEY"):
        _ = Pictures().api_key


def test_settings_from_the_environment_are_read_anew_by_the_next_run() -> None:
    pictures = Pictures(mode="exact")
    started({"PICTURES_API_KEY": "one"}, pictures=pictures).detach()
    with pytest.raises(UsageError):
        _ = pictures.api_key
    started({"PICTURES_API_KEY": "two"}, pictures=pictures)
    assert pictures.api_key == "two"
    assert pictures.mode == "exact"


def test_settings_are_inherited_and_can_be_fixed_by_a_subclass() -> None:
    class Fixed(Pictures):
        api_key: str = "fixed"
        extra: bool = env("EXTRA", default=False)

    fixed = Fixed()
    started({"EXTRA": "yes"}, pictures=fixed)
    assert fixed.api_key == "fixed"
    assert fixed.extra is True


def test_an_own_constructor_works_with_settings() -> None:
    class Own(Integration):
        size: int = env("OWN_SIZE", default=1)
        label: str = env("OWN_LABEL", default="none")

        def __init__(self, size: int) -> None:
            self.size = size

    own = Own(4)
    started({"OWN_SIZE": "9", "OWN_LABEL": "l"}, own=own)
    assert (own.size, own.label) == (4, "l")


def test_types_of_the_enclosing_function_are_found() -> None:
    class Colour(Enum):
        RED = "red"

    class Paint(Integration):
        colour: Colour = env("COLOUR")

    paint = Paint()
    started({"COLOUR": "red"}, paint=paint)
    assert paint.colour is Colour.RED


class Size(Enum):
    SMALL = "s"


def test_names_of_callers_are_not_mistaken_for_those_of_the_declaration() -> None:
    def declare() -> type[Integration]:
        class Sized(Integration):
            size: Size = env("SIZE")

        return Sized

    def call() -> type[Integration]:
        Size = "something else"  # noqa: F841
        return declare()

    sized: Any = call()()
    started({"SIZE": "s"}, sized=sized)
    assert sized.size is Size.SMALL


def test_an_annotation_that_cannot_be_evaluated_is_reported_with_the_rest() -> None:
    class Strange(Integration):
        value: Nowhere = env("STRANGE")  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DeclarationError, match="annotation 'Nowhere', which can't be evaluated"):
        started({"STRANGE": "x"}, strange=Strange())


def test_a_setting_without_annotation_is_refused_where_it_is_declared() -> None:
    with pytest.raises(DeclarationError, match=r"no annotation.*Write `url: str = env"):

        class Bad(Integration):
            url = env("URL")


def test_unknown_constructor_arguments_are_refused_with_a_suggestion() -> None:
    arguments: dict[str, Any] = {"domian": "x"}
    with pytest.raises(DeclarationError, match=r"no setting 'domian'.*'domain'"):
        Pictures(**arguments)
