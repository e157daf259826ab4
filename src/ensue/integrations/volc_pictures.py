"""Pictures by Volcengine's visual service ("Jimeng 4.0"), as tasks: submitted, polled, and copied to storage of one's own.

Decides what is sent and what each answer of the service means. Leaves when, how often and what becomes of the task to
`tasks`, and signing to `volc.signature`. Invariants: content that was refused is not sent again; a submission without an
answer is never repeated by itself, since the service folds no repeats and charges for each. Not tried against the
service itself: it follows its public documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast
from urllib.parse import quote, urlsplit

import msgspec

from ensue.errors import Rejected, Throttled, Unavailable, UnknownOutcome
from ensue.integrations.http_client import check_http_url, download, enter_http, retry_after_of
from ensue.integrations.settings.environment import env
from ensue.integrations.tasks.integration import TaskIntegration
from ensue.integrations.tasks.task import AsyncTask
from ensue.integrations.tasks.update import TaskUpdate
from ensue.integrations.volc.signature import Credentials, Unsigned, canonical_query, signed_headers
from ensue.schema.record import record_values

if TYPE_CHECKING:
    import httpx2

    from ensue.engine.controller import Controller

VERSION: Final = "2022-08-31"
SUBMIT: Final = "CVSync2AsyncSubmitTask"
GET_RESULT: Final = "CVSync2AsyncGetResult"
SUCCESS: Final = 10000
CONTENT_REFUSED: Final = frozenset({50411, 50412, 50413, 50512})
OUTPUT_REFUSED: Final = 50511
"""The picture that was made was refused; another one of the same prompt may pass."""
TOO_MANY: Final = frozenset({50429, 50430})
INTERNAL: Final = frozenset({50500, 50501})

TOO_MANY_PAUSE_SECONDS: Final = 5.0
INTERNAL_PAUSE_SECONDS: Final = 30.0
"""The vendor wants requests that met an internal error not to be repeated at once."""
DOCUMENTED: Final = "jimeng_t2i_v40"
"""The `req_key` whose documented bounds are known here."""
PROMPT_MAX: Final = 800
IMAGE_URLS_MAX: Final = 10
SIZE_MIN, SIZE_MAX = 1024**2, 4096**2
INPUTS: Final = (
    "prompt",
    "image_urls",
    "size",
    "width",
    "height",
    "scale",
    "force_single",
    "min_ratio",
    "max_ratio",
)
"""The properties of a task that are sent, where its class has them and they are not None."""


class Keeps(Protocol):
    """Where pictures are kept; `ObjectStorage` is one."""

    async def put(self, key: str, data: bytes, content_type: str) -> str: ...


class Said(msgspec.Struct):
    """The data of an answer."""

    task_id: str | None = None
    status: str | None = None
    image_urls: list[str] | None = None


class Answer(msgspec.Struct):
    """What the service answers, as far as it matters."""

    code: int
    data: Said | None = None
    message: str = ""
    request_id: str = ""


class VolcPictures(TaskIntegration):
    """Generates a picture for each task of `tasks`, which has a `prompt` and whatever else of `INPUTS` it declares.

    The result of a completed task is `{"image_urls": [...]}`. The service's own links are valid for 24 hours; with
    `storage`, the namespace of an `ObjectStorage`, pictures are copied there first and the links are to the copies.

    >>> class Picture(AsyncTask):
    ...     prompt: Property[str]
    >>> App(entities=[Picture], integrations={"pictures": VolcPictures(tasks=Picture)})
    """

    access_key: str = env("VOLC_ACCESS_KEY")
    secret_key: str = env("VOLC_SECRET_KEY")
    session_token: str = env("VOLC_SESSION_TOKEN", default="")
    endpoint: str = env("VOLC_VISUAL_ENDPOINT", default="https://visual.volcengineapi.com")
    region: str = env("VOLC_REGION", default="cn-north-1")
    req_key: str = "jimeng_t2i_v40"
    storage: str = ""
    storage_prefix: str = "pictures/"
    expected_seconds: float = 10.0
    poll_timeout_seconds: float = 60.0

    statuses: ClassVar[Mapping[str, str]] = {
        "in_queue": "processing",
        "generating": "processing",
        "done": "completed",
        "not_found": "failed",
        "expired": "resubmit",
    }

    async def setup(self, controller: Controller) -> None:
        check_http_url(self, "endpoint")
        self._credentials = Credentials(self.access_key, self.secret_key, self.region, "cv", self.session_token)
        self._http = await enter_http(self, timeout_seconds=self.submit_timeout_seconds)
        self._keeps: Keeps | None = self.neighbour(self.storage) if self.storage else None

    def request(self, task: AsyncTask) -> dict[str, Any]:
        """What is asked of the service for `task`; override it to say more."""
        values = record_values(task)
        given = {name: values[name] for name in INPUTS if values.get(name) is not None}
        return {"req_key": self.req_key, **given}

    async def submit(self, task: AsyncTask, key: str) -> str:
        asked = self.request(task)
        if asked.get("req_key") == DOCUMENTED and (found := out_of_bounds(asked)):
            raise Rejected("out_of_bounds", f"{found} Nothing was sent.")
        answer = await self._call(SUBMIT, asked, sends=True)
        if answer.code != SUCCESS:
            raise _refused(answer)
        if answer.data is None or not answer.data.task_id:
            raise UnknownOutcome(f"The service reports success without a task_id (request {answer.request_id}).")
        return answer.data.task_id

    async def poll(self, external_id: str) -> TaskUpdate:
        body = {"req_key": self.req_key, "task_id": external_id, "req_json": '{"return_url":true}'}
        answer = await self._call(GET_RESULT, body, sends=False)
        if answer.code in CONTENT_REFUSED:
            return TaskUpdate(status="failed", error=_text("content_refused", answer))
        if answer.code == OUTPUT_REFUSED:
            return TaskUpdate(status="resubmit", error=_text("output_refused", answer))
        said = answer.data or Said()
        if answer.code != SUCCESS:
            # Done badly, in words that are not documented: final if the service says done, else asked again.
            if said.status == "done":
                return TaskUpdate(status="failed", error=_text("failed", answer))
            raise Unavailable(_text("no status", answer))
        if said.status == "done":
            return TaskUpdate(
                status="done", result={"image_urls": await self._kept(external_id, said.image_urls or [])}
            )
        error = f"{said.status}: the service does not know the task" if said.status == "not_found" else None
        return TaskUpdate(status=said.status or "generating", error=error)

    async def _kept(self, external_id: str, urls: list[str]) -> list[str]:
        """The links to hand out; a picture that can't be copied now is tried again with the next poll."""
        if self._keeps is None:
            return urls
        kept: list[str] = []
        for number, url in enumerate(urls, start=1):
            data, kind = await download(self._http, url)
            ending = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}.get(kind, "")
            key = f"{self.storage_prefix}{quote(external_id, safe='')}/{number}{ending}"
            kept.append(await self._keeps.put(key, data, kind))
        return kept

    async def _call(self, action: str, content: Mapping[str, Any], *, sends: bool) -> Answer:
        """One call. `sends`: it has an effect, so that an answer which says nothing leaves its outcome open."""
        query = {"Action": action, "Version": VERSION}
        body = msgspec.json.encode(content)
        parts = urlsplit(self.endpoint)
        headers = {"Host": parts.netloc, "Content-Type": "application/json"}
        path = parts.path or "/"
        signed = signed_headers(Unsigned("POST", path, query, headers, body), self._credentials, self.clock.now())
        url = f"{parts.scheme}://{parts.netloc}{path}?{canonical_query(query)}"
        response = await self._http.post(url, content=body, headers=signed)
        return _understood(response, sends=sends)


def out_of_bounds(asked: Mapping[str, Any]) -> str:
    """What of a request the service refuses by its documentation; empty if nothing. Tells sizes, not contents.

    >>> out_of_bounds({"prompt": "a" * 801})
    '`prompt` has 801 characters; the service takes at most 800.'
    """
    prompt, urls, size, scale = (asked.get(name) for name in ("prompt", "image_urls", "size", "scale"))
    # What is of another type is the service's to judge: a class may declare its columns as it likes.
    if isinstance(prompt, str) and len(prompt) > PROMPT_MAX:
        return f"`prompt` has {len(prompt)} characters; the service takes at most {PROMPT_MAX}."
    if isinstance(urls, list) and (count := len(cast("list[Any]", urls))) > IMAGE_URLS_MAX:
        return f"`image_urls` names {count} pictures; the service takes at most {IMAGE_URLS_MAX}."
    if isinstance(size, int) and not SIZE_MIN <= size <= SIZE_MAX:
        return f"`size` is {size}; the service makes pictures of {SIZE_MIN} to {SIZE_MAX} pixels."
    if isinstance(scale, int | float) and not 0 <= scale <= 1:
        return f"`scale` is {scale}; the service takes 0 to 1."
    return ""


def _read(response: httpx2.Response) -> Answer | None:
    try:
        return msgspec.json.decode(response.content, type=Answer)
    except msgspec.MsgspecError:
        return None


def _understood(response: httpx2.Response, *, sends: bool) -> Answer:
    """What was answered about the task. Raises for answers that are about the service."""
    answer = _read(response)
    status, code = response.status_code, 0 if answer is None else answer.code
    text = _text(f"HTTP {status}", answer)
    if status in (429, 503) or code in TOO_MANY:
        raise Throttled(retry_after_of(response, default=TOO_MANY_PAUSE_SECONDS), text)
    if code in INTERNAL:
        raise Throttled(INTERNAL_PAUSE_SECONDS, text)
    if status in (401, 403):
        # Wrong keys are the operator's matter: the tasks wait for better ones.
        raise Unavailable(text)
    if answer is None or status >= 500:
        raise UnknownOutcome(text) if sends else Unavailable(text)
    return answer


def _refused(answer: Answer) -> Exception:
    if answer.code == OUTPUT_REFUSED:
        return Unavailable(_text("output_refused", answer))
    reason = "content_refused" if answer.code in CONTENT_REFUSED else "refused"
    return Rejected(reason, _text(str(answer.code), answer))


def _text(what: str, answer: Answer | None) -> str:
    if answer is None:
        return f"{what}: an answer that can't be read"
    return f"{what}: {answer.message or 'no message'} (code {answer.code}, request {answer.request_id})"
