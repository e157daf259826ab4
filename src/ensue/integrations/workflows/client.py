"""A Temporal server, through Temporal's own client.

Decides how long a call may take, what its failures mean, and by which ids the server recognises a repetition. Leaves the
encoding of arguments and results to the client's data converter. Invariants: no call outlives its bound; starts,
signals and cancellations carry a request id, so a repeated one has no effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payloads, WorkflowExecution, WorkflowType
from temporalio.api.enums.v1 import WorkflowIdReusePolicy
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    RequestCancelWorkflowExecutionRequest,
    SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from ensue.clock import Clock
from ensue.errors import Rejected, Throttled, UsageError
from ensue.integrations.contract import Health
from ensue.integrations.workflows.records import EndStatus
from ensue.integrations.workflows.server import End, Message, Start, TemporalUnavailable, as_mapping, exists, forgotten

T = TypeVar("T")

CALL_SECONDS_MAX: Final = 10.0
THROTTLED_SECONDS: Final = 5.0
ARGUMENT_BYTES_MAX: Final = 2 * 1024 * 1024
"""What a server takes by default."""
LISTED_MAX: Final = 1000
ERROR_CHARACTERS_MAX: Final = 2000
_ENDS: Final[dict[WorkflowExecutionStatus, EndStatus]] = {
    WorkflowExecutionStatus.COMPLETED: "completed",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TERMINATED: "terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed_out",
}


class TemporalWorkflows:
    """Workflows in the namespace that `client` is for; a lazy client connects at the first call.

    An async context manager: after it, `client` is let go of, and its connection goes with it.
    """

    def __init__(self, client: Client, *, clock: Clock, identity: str) -> None:
        self._given: Client | None = client
        self._clock = clock
        self._identity = identity
        self._health = Health(up=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given = None

    @property
    def _client(self) -> Client:
        if self._given is None:
            raise UsageError("This server is not open; it is from setup() to cleanup().")
        return self._given

    async def start(self, start: Start, /) -> str:
        # By the service and not by the client's method, which makes a request id of its own for each call.
        request = StartWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_id=start.workflow_id,
            workflow_type=WorkflowType(name=start.workflow),
            task_queue=TaskQueue(name=start.task_queue),
            input=await self._encoded(start.argument),
            request_id=start.request_id,
            identity=self._identity,
            workflow_id_reuse_policy=WorkflowIdReusePolicy.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
            workflow_execution_timeout=_duration(start.execution_timeout),
        )
        try:
            return (await self._call(self._client.workflow_service.start_workflow_execution(request))).run_id
        except RPCError as error:
            if error.status == RPCStatusCode.ALREADY_EXISTS:
                raise exists(start.workflow_id) from error
            raise

    async def signal(self, message: Message, /) -> bool:
        request = SignalWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=message.workflow_id),
            signal_name=message.name,
            input=await self._encoded(message.argument),
            request_id=message.request_id,
            identity=self._identity,
        )
        return await self._unless_unknown(self._client.workflow_service.signal_workflow_execution(request))

    async def cancel(self, workflow_id: str, /, *, request_id: str) -> bool:
        request = RequestCancelWorkflowExecutionRequest(
            namespace=self._client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id),
            request_id=request_id,
            identity=self._identity,
        )
        return await self._unless_unknown(self._client.workflow_service.request_cancel_workflow_execution(request))

    async def end_of(self, workflow_id: str, /) -> End | None:
        try:
            seen = await self._call(self._client.get_workflow_handle(workflow_id).describe())
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return forgotten(workflow_id)
            raise
        status = None if seen.status is None else _ENDS.get(seen.status)
        if status is None:
            return None
        handle = self._client.get_workflow_handle(workflow_id, run_id=seen.run_id)
        try:
            result = await self._call(_result(handle))
        except WorkflowFailureError as error:
            return End(workflow_id, seen.run_id, status, None, _cause(error))
        except _Undecoded as error:
            return End(workflow_id, seen.run_id, status, None, f"What the workflow returned can't be read: {error}")
        return End(workflow_id, seen.run_id, status, as_mapping(result))

    async def ended_since(self, workflows: Collection[str], since: datetime, /) -> Sequence[tuple[str, str]]:
        types = ", ".join(f"'{_quoted(name)}'" for name in sorted(workflows))
        query = (
            f"WorkflowType IN ({types}) AND ExecutionStatus != 'Running' AND ExecutionStatus != 'ContinuedAsNew' "
            f"AND CloseTime >= '{since.isoformat()}'"
        )

        async def listed() -> list[tuple[str, str]]:
            found = self._client.list_workflows(query, page_size=LISTED_MAX, limit=LISTED_MAX)
            return [(item.id, item.run_id) async for item in found]

        return await self._call(listed())

    def health(self) -> Health:
        return self._health

    async def _unless_unknown(self, call: Awaitable[object]) -> bool:
        try:
            await self._call(call)
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def _call(self, call: Awaitable[T]) -> T:
        """What `call` gives. Raises `Throttled`, `TemporalUnavailable`, or what says something of the request itself."""
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                found = await call
        except TimeoutError as error:
            raise self._down(f"no answer within {CALL_SECONDS_MAX:g} s") from error
        except RPCError as error:
            if error.status == RPCStatusCode.RESOURCE_EXHAUSTED:
                raise Throttled(THROTTLED_SECONDS, "The Temporal server asks to wait.") from error
            if _is_setting(error) or error.status not in _ABOUT_REQUEST:
                raise self._down(f"{error.status.name}: {error.message}") from error
            self._health = Health(up=True)
            if error.status in _WRONG_REQUEST:
                raise Rejected("workflow_refused", f"The Temporal server refuses it: {error.message}") from error
            raise
        except RuntimeError as error:
            # The client's own word for a connection that could not be made.
            raise self._down(str(error)[:300]) from error
        except WorkflowFailureError:
            self._health = Health(up=True)
            raise
        self._health = Health(up=True)
        return found

    def _down(self, text: str) -> TemporalUnavailable:
        told = f"The Temporal server failed: {text}"
        # The first failure of several keeps its instant.
        if self._health.up:
            self._health = Health(up=False, detail=told, since=self._clock.now())
        return TemporalUnavailable(told)

    async def _encoded(self, argument: Any) -> Payloads:
        payloads = Payloads(payloads=await self._client.data_converter.encode([argument]))
        size = payloads.ByteSize()
        if size > ARGUMENT_BYTES_MAX:
            # The server's own word for it is that of throttling, and it would be waited for in vain.
            raise Rejected(
                "workflow_refused",
                f"The argument is {size} bytes, and Temporal takes {ARGUMENT_BYTES_MAX}. Give an id, or an address.",
            )
        return payloads


_WRONG_REQUEST: Final = frozenset((RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.INVALID_ARGUMENT))
_ABOUT_REQUEST: Final = _WRONG_REQUEST | {RPCStatusCode.ALREADY_EXISTS, RPCStatusCode.NOT_FOUND}


class _Undecoded(Exception):
    """What a workflow returned is encoded in a way that is not known here, or wrongly."""


async def _result(handle: WorkflowHandle[Any, Any]) -> Any:
    try:
        return await handle.result(follow_runs=False)
    except (KeyError, RuntimeError) as error:
        # The converter's own words for it. The server is not to blame, and asking again would change nothing.
        raise _Undecoded(str(error)[:ERROR_CHARACTERS_MAX]) from error


def _is_setting(error: RPCError) -> bool:
    """Whether it is the namespace that is not there, and not the workflow: no word on workflows, then."""
    return any(item.type_url.endswith("NamespaceNotFoundFailure") for item in error.grpc_status.details)


def _duration(given: timedelta | None) -> Duration | None:
    if given is None:
        return None
    found = Duration()
    found.FromTimedelta(given)
    return found


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace("'", "\\'")


def _cause(error: WorkflowFailureError) -> str:
    """Why a workflow ended, innermost last: an activity's failure is wrapped in that of its workflow."""
    found: list[str] = []
    cause: BaseException | None = error.cause
    while cause is not None and len(found) < 5:
        found.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(found)[:ERROR_CHARACTERS_MAX]
