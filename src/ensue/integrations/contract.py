"""What an integration is: the bridge between an app's data and the systems outside of it.

Decides the hooks, their order, and what may be done in which; leaves running them to `lifecycle`. Invariant: an
integration belongs to at most one running app at a time, and what it entered is closed when that run ends.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, cast, dataclass_transform

from ensue.clock import Clock
from ensue.errors import DeclarationError, Problem, UsageError
from ensue.integrations.api import API, api_mark
from ensue.integrations.handles import Handles
from ensue.integrations.running.resources import Resources
from ensue.integrations.settings.environment import WRONG_SETTING, Setting, declared_settings, resolve, shown
from ensue.schema.delivery import ErrorClass
from ensue.schema.effect import SideEffect, declarations
from ensue.schema.written.names import suggestion

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.integrations.inbound.consumer import Consumer
    from ensue.integrations.inbound.webhook import Webhook
    from ensue.schema.schema import Schema

T = TypeVar("T")
Phase = Literal["declared", "configuring", "setting up", "running", "closed"]


@dataclass(frozen=True, slots=True)
class Health:
    """How an integration is. When it is not `up`, `detail` says why and `since` when that began."""

    up: bool
    detail: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run gives to its integrations. `clients` replace resources by their full names (`"channels.redis"`).

    `delivers` says whether effects are delivered in this process, as `worker`; `members` are all integrations of the run.
    """

    handles: Handles
    clock: Clock
    clients: Mapping[str, Any] = field(default_factory=dict[str, Any])
    delivers: bool = False
    worker: str = "app"
    members: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class _State:
    """What an integration is in the middle of; apart from its own attributes, which are the author's."""

    namespace: str = ""
    phase: Phase = "declared"
    surroundings: Surroundings | None = None
    resources: Resources = field(default_factory=Resources)
    resolved: set[str] = field(default_factory=set[str])
    entered: set[str] = field(default_factory=set[str])


@dataclass_transform(kw_only_default=True)
class Integration:
    """Base of all integrations. Override what is needed; every hook has a default that does nothing.

    Annotated attributes are settings: constructor arguments, read from the environment where `env(...)` says so. The
    hooks run in this order: `configure` (may change the schema), then, with the database open, `setup`, then side
    effects and API calls as they come, then `cleanup`.

    >>> class Mail(Integration):
    ...     server: str = env("MAIL_SERVER", default="localhost")
    ...     async def setup(self, controller: Controller) -> None:
    ...         self.client = await self.enter(connect(self.server), name="client")
    """

    __ensue_settings__: ClassVar[Mapping[str, Setting]] = {}

    if TYPE_CHECKING:
        # No annotation: it would become a constructor parameter of every subclass.
        @property
        def __ensue_state__(self) -> _State: ...

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.__ensue_settings__ = {**cls.__ensue_settings__, **declared_settings(cls, _declaring_frame())}

    def __new__(cls, *_arguments: Any, **_named: Any) -> Self:
        # Here and not in __init__: an author's own __init__ need not call ours.
        instance = super().__new__(cls)
        _renew(instance, _State())
        return instance

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            if name not in self.__ensue_settings__:
                hint = suggestion(name, self.__ensue_settings__) or " It has no settings."
                raise DeclarationError(Problem(WRONG_SETTING, f"{type(self).__name__} has no setting {name!r}.{hint}"))
            setattr(self, name, value)

    def __repr__(self) -> str:
        values = [
            (name, setting, vars(self)[name]) for name, setting in self.__ensue_settings__.items() if name in vars(self)
        ]
        return (
            f"{type(self).__name__}({', '.join(f'{name}={shown(setting, value)}' for name, setting, value in values)})"
        )

    @property
    def namespace(self) -> str:
        """The name under which the app holds this integration; part of its API's path and its side effects' names."""
        self._surroundings("namespace")
        return self.__ensue_state__.namespace

    @property
    def handles(self) -> Handles:
        """WebSocket connections and other handles of the process; see `Handles`."""
        return self._surroundings("handles").handles

    @property
    def clock(self) -> Clock:
        """The app's clock: read time from it, so that a test can control it."""
        return self._surroundings("clock").clock

    @property
    def delivers(self) -> bool:
        """Whether this process delivers effects: only then does work that goes on by itself belong into it."""
        return self._surroundings("delivers").delivers

    def neighbour(self, namespace: str, /) -> Any:
        """The integration of that namespace, or what replaces it in a test. Raises `DeclarationError` if there is none.

        It may be set up after this one: call it in side effects and API calls, not in `setup`.
        """
        members = self._surroundings("neighbour()").members
        if namespace not in members:
            hint = suggestion(namespace, members)
            raise DeclarationError(
                Problem(
                    WRONG_SETTING, f"{self.namespace} needs the integration {namespace!r}, and there is none.{hint}"
                )
            )
        return members[namespace]

    @property
    def worker(self) -> str:
        """The name of this process in tables of who works on what; not unique."""
        return self._surroundings("worker").worker

    async def enter(self, resource: AbstractAsyncContextManager[T], /, *, name: str = "") -> T:
        """Open `resource` and give what it gives; it is closed for you after `cleanup`, also when a later setup fails.

        Under a `name` a test can replace it: `AppHarness(app, clients={"channels.redis": fake})`. Raises `UsageError`
        before setup, and for what is no async context manager.
        """
        state = self.__ensue_state__
        surroundings = self._surroundings("enter()")
        if state.phase not in ("setting up", "running"):
            raise UsageError(
                f"{type(self).__name__} called enter() while {state.phase}. configure() only declares and takes no "
                f"connections: "
                "call `await self.enter(...)` in setup()."
            )
        full_name = f"{state.namespace}.{name}" if name else f"{state.namespace}.{type(resource).__name__}"
        state.entered.add(full_name)
        if name and full_name in surroundings.clients:
            fake = surroundings.clients[full_name]
            if not isinstance(fake, AbstractAsyncContextManager):
                return cast("T", fake)
            resource = cast("AbstractAsyncContextManager[T]", fake)
        _require_enterable(type(self).__name__, resource)
        return await state.resources.enter(resource, name=full_name)

    async def configure(self, schema: Schema) -> None:
        """Change the schema: add entities, properties, computations.

        The only time that it is open; keep it quick, no I/O.
        """

    async def setup(self, controller: Controller) -> None:
        """Connect, and register callbacks on `self.handles`.

        The database is open; nothing is served or delivered yet.
        """

    async def cleanup(self) -> None:
        """Undo what `setup` did and `enter` doesn't close.

        Has 5 seconds; not called if this integration's own setup failed.
        """

    async def health(self) -> Health:
        """How the integration is, for `/health`. Must answer at once: report what is known, don't ask the peer."""
        return Health(up=True)

    def classify(self, error: BaseException) -> ErrorClass | None:
        """The class of an error that a side effect of this integration raised; None where ensue's own rules are right.

        >>> def classify(self, error):
        ...     return "rejected" if isinstance(error, CardDeclined) else None
        """
        del error
        return None

    def create_side_effects(self) -> list[SideEffect]:
        """Side effects besides those decorated with `@side_effect`, for those that depend on settings."""
        return []

    def create_apis(self) -> list[API]:
        """API calls besides those decorated with `@api`."""
        return []

    def create_webhooks(self) -> list[Webhook]:
        """Webhook endpoints besides those decorated with `@webhook`, for those that depend on settings."""
        return []

    def create_consumers(self) -> list[Consumer]:
        """Consumers besides those decorated with `@consume`."""
        return []

    def parts(self, namespace: str) -> Mapping[str, Integration]:
        """The integrations that this one stands for, by namespace: itself, unless it is an aggregate."""
        return {namespace: self}

    def _surroundings(self, what: str) -> Surroundings:
        if self.__ensue_state__.surroundings is None:
            raise UsageError(
                f"{type(self).__name__}.{what} belongs to a running app, and this integration is in none. Use it in "
                f"configure(), "
                "setup() or later, with the integration in `App(integrations={...})`."
            )
        return self.__ensue_state__.surroundings


def _renew(integration: Integration, state: _State) -> None:
    vars(integration)["__ensue_state__"] = state


def _declaring_frame() -> FrameType | None:
    """The frame of the class statement: the first that is not a hook of the base classes here."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # inspect.stack() reads files
    while frame is not None and frame.f_code.co_name in (_declaring_frame.__name__, "__init_subclass__"):
        frame = frame.f_back
    return frame


def _require_enterable(owner: str, resource: object) -> None:
    if isinstance(resource, AbstractAsyncContextManager):
        return
    if inspect.iscoroutine(resource):
        resource.close()
        advice = "Await it, and enter what it gives."
    elif hasattr(resource, "aclose"):
        advice = "Wrap it: `await self.enter(contextlib.aclosing(client))`."
    else:
        advice = "Write one with `@contextlib.asynccontextmanager`, or close it yourself in cleanup()."
    raise UsageError(
        f"{owner} called enter() with {type(resource).__name__}; expected an async context manager. {advice}"
    )


def attach(integration: Integration, namespace: str, surroundings: Surroundings) -> None:
    """Give `integration` to a run. Raises `UsageError` if it is in one."""
    state = integration.__ensue_state__
    if state.surroundings is not None:
        raise UsageError(
            f"The {type(integration).__name__} object given as {namespace!r} is in use already, as "
            f"{state.namespace!r}. "
            "Make one object for each app and each namespace."
        )
    _renew(integration, _State(namespace=namespace, surroundings=surroundings))


def detach(integration: Integration) -> None:
    """End what `attach` began; settings from the environment are forgotten, so that the next run reads them anew."""
    for name in integration.__ensue_state__.resolved:
        vars(integration).pop(name, None)
    _renew(integration, _State())


def enter_phase(integration: Integration, phase: Phase) -> None:
    """Note how far the life cycle is."""
    integration.__ensue_state__.phase = phase


def resources_of(integration: Integration) -> Resources:
    """What the integration has entered in this run."""
    return integration.__ensue_state__.resources


def entered_names(integration: Integration) -> set[str]:
    """The full names that `enter` was called with."""
    return integration.__ensue_state__.entered


def resolve_settings(integration: Integration, environ: Mapping[str, str]) -> list[Problem]:
    """Set every setting that has a value; gives what is missing or wrong."""
    state, settings = integration.__ensue_state__, integration.__ensue_settings__
    given = {
        name: vars(integration)[name] for name in settings if name in vars(integration) and name not in state.resolved
    }
    where = f"{state.namespace} ({type(integration).__name__})"
    values, problems = resolve(where, settings.values(), given, environ)
    for name in values.keys() - given.keys():
        setattr(integration, name, values[name])
        state.resolved.add(name)
    return problems


def side_effects_of(integration: Integration) -> list[SideEffect]:
    """The decorated side effects, in the order of definition, then the created ones."""
    decorated = [
        # A name is kept in the database with each effect: the first keeps the method's when another is stacked on top.
        declaration.bind(name if number == 1 else f"{name}_{number}", getattr(integration, name))
        for name, function in members_of(type(integration))
        for number, declaration in enumerate(declarations(function), start=1)
    ]
    return decorated + created_by(integration, "create_side_effects", SideEffect)


def apis_of(integration: Integration) -> list[API]:
    """The decorated API calls, in the order of definition, then the created ones."""
    decorated = [
        API(name, getattr(integration, name), allow_anonymous=mark.allow_anonymous, names=mark.names)
        for name, function in members_of(type(integration))
        if (mark := api_mark(function)) is not None
    ]
    return decorated + created_by(integration, "create_apis", API)


def created_by(integration: Integration, method: str, kind: type[T]) -> list[T]:
    """What `create_side_effects` or another `create_…` of an integration gave. Raises `DeclarationError`."""
    found: Any = getattr(integration, method)()
    what = f"a {type(found).__name__}"
    if inspect.iscoroutine(found):
        found.close()
    elif isinstance(found, Iterable) and not isinstance(found, Mapping):
        items = list(cast("Iterable[object]", found))
        strange = [item for item in items if not isinstance(item, kind)]
        if not strange:
            return cast("list[T]", items)
        what += f" that holds {strange[0]!r}"
    raise DeclarationError(
        f"{type(integration).__name__}.{method}() gave {what}; expected a list of {kind.__name__}, from a function that is "
        "not async."
    )


def members_of(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """Each member once, bases first; an override takes the place of what it overrides, and its decoration too."""
    seen: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        seen.update(vars(base))
    return iter(seen.items())
