"""Running what a client asks for: an interaction or an API call, whichever way it came in.

Decides how names are found, what a result looks like in JSON, and what is logged of a call. Leaves the way in to
`asgi` and `websocket`, and permissions to the dispatch. Invariant: a result tells what the client asked for, and of
everything that followed from it only types and ids, since rows of others may be among it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.clock import SystemClock
from ensue.schema.event import DispatchResult
from ensue.schema.interaction import Context
from ensue.schema.written.names import suggestion
from ensue.server.answers import Refusal, answer_to, encode
from ensue.server.logs import dispatch_id, new_id
from ensue.server.payload import Payload, read_object

if TYPE_CHECKING:
    from ensue.app import AppRun

logger = logging.getLogger("ensue.server")

_stopwatch = SystemClock()


class Calls:
    """The calls of one running app. `suggests`: a wrong name is answered with those there are."""

    def __init__(self, run: AppRun, *, suggests: bool) -> None:
        self._run = run
        self._suggests = suggests
        self.payloads = {name: Payload(run.model, item) for name, item in run.model.interactions.items()}

    async def interaction(
        self,
        name: str,
        content: bytes | msgspec.Raw,
        *,
        user: Any,
        idempotency_key: str | None = None,
        request: Any = None,
    ) -> bytes:
        """Dispatch; gives `{"event", "changes", "replayed"}`, or `{"records"}` of one that only reads, as JSON."""
        payload = self.payload(name)
        began = _stopwatch.monotonic_seconds()
        token = dispatch_id.set(new_id())
        try:
            interaction = payload.read(content)
            result = await self._run.controller.dispatch(
                interaction, user=user, idempotency_key=idempotency_key, request=request
            )
            body = encode(shown(result, reads=payload.interaction.reads is not None))
        except Exception as error:
            _log("interaction", name, began, error=answer_to(error).code)
            raise
        else:
            _log("interaction", name, began, replayed=result.replayed, changes=len(result.changes))
            return body
        finally:
            dispatch_id.reset(token)

    async def api(
        self, namespace: str, name: str, content: bytes | msgspec.Raw, *, user: Any, request: Any = None
    ) -> bytes:
        """Call an integration; gives its result as JSON."""
        api = self._find(self._find(self._run.apis, namespace, "integration"), name, "API call")
        began = _stopwatch.monotonic_seconds()
        token = dispatch_id.set(new_id())
        try:
            context = Context(user=user, request=request, controller=self._run.controller)
            body = encode(await api.call(context, read_object(content)))
        except Exception as error:
            _log("api", f"{namespace}.{name}", began, error=answer_to(error).code)
            raise
        else:
            _log("api", f"{namespace}.{name}", began)
            return body
        finally:
            dispatch_id.reset(token)

    def payload(self, name: str) -> Payload:
        """What the interaction `name` takes. Raises `Refusal`."""
        return self._find(self.payloads, name, "interaction")

    def _find(self, known: Any, name: str, what: str) -> Any:
        if name in known:
            return known[name]
        close = suggestion(name, known) if self._suggests else ""
        raise Refusal(404, f"unknown_{what.replace(' ', '_').lower()}", f"There is no {what} {name!r}.{close}")


def shown(result: DispatchResult[Any], *, reads: bool) -> dict[str, Any]:
    """A result as a client sees it."""
    if reads:
        return {"records": result.response}
    return {"event": result.event, "changes": list(_shown_changes(result.changes)), "replayed": result.replayed}


def _shown_changes(changes: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for change in changes:
        yield {"type": change.type, "record": change.record_name, "id": change.record.__ensue_id__()}


def _log(kind: str, name: str, began: float, **more: Any) -> None:
    milliseconds = round((_stopwatch.monotonic_seconds() - began) * 1000, 2)
    logger.info("%s %s", kind, name, extra={"call": name, "duration_ms": milliseconds, **more})
