"""Pictures by any service that speaks OpenAI's images API, as tasks: it answers at once, and they go the same way.

Decides what is sent and what the answer means. Leaves everything else to `tasks`. Invariant: the request carries the
key of the submission, and a picture that may have been made and charged for is not asked for again by itself.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ensue.errors import Rejected, Throttled, Unavailable, UnknownOutcome
from ensue.integrations.http_client import check_http_url, enter_http, retry_after_of
from ensue.integrations.settings.environment import env
from ensue.integrations.tasks.integration import TaskIntegration
from ensue.integrations.tasks.task import AsyncTask
from ensue.integrations.tasks.update import TaskUpdate
from ensue.schema.record import record_values

if TYPE_CHECKING:
    from ensue.engine.controller import Controller


class OpenAIImages(TaskIntegration):
    """Generates a picture for each task of `tasks`, which has a `prompt`, and `size`, `quality` or `n` if it likes.

    The result is `{"images": [...]}`: what the service gives for each, a `url` or `b64_json`.

    >>> App(entities=[Picture], integrations={"images": OpenAIImages(tasks=Picture, model="gpt-image-1")})
    """

    api_key: str = env("OPENAI_API_KEY")
    base_url: str = env("OPENAI_BASE_URL", default="https://api.openai.com/v1")
    model: str = "gpt-image-1"
    submit_timeout_seconds: float = 180.0
    deadline: timedelta = timedelta(minutes=30)

    async def setup(self, controller: Controller) -> None:
        check_http_url(self, "base_url")
        headers = {"Authorization": f"Bearer {self.api_key}"}
        self._http = await enter_http(self, timeout_seconds=self.submit_timeout_seconds, headers=headers)

    async def submit(self, task: AsyncTask, key: str) -> TaskUpdate:
        values = record_values(task)
        given = {name: values[name] for name in ("prompt", "size", "quality", "n") if values.get(name) is not None}
        url = f"{self.base_url.rstrip('/')}/images/generations"
        response = await self._http.post(url, json={"model": self.model, **given}, headers={"Idempotency-Key": key})
        if response.status_code == 429:
            raise Throttled(retry_after_of(response, default=5.0))
        if response.status_code == 401:
            raise Unavailable("The service does not accept the key. Set OPENAI_API_KEY to one that it does.")
        if response.status_code in (400, 403, 422):
            raise Rejected("refused", response.text[:500])
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        if not answer.get("data"):
            raise UnknownOutcome("The service reports success and gives no pictures.")
        usage: dict[str, Any] = answer.get("usage") or {}
        return TaskUpdate(status="completed", result={"images": answer["data"]}, cost=usage.get("total_tokens"))
