"""The app of `many`: jobs at a provider that lives in the parent process and speaks a line per call."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import ClassVar

from ensue import App, AsyncTask, Property, TaskIntegration, TaskUpdate


class Job(AsyncTask):
    number: Property[int]


class Jobs(TaskIntegration):
    tasks: type[AsyncTask] = Job
    provider: str
    statuses: ClassVar = {"working": "processing", "done": "completed", "broken": "failed"}
    # The provider folds repeats, so that a worker that is killed while it submits loses nothing.
    key_ttl: timedelta | None = timedelta(days=1)

    async def submit(self, task: Job, key: str) -> str:
        return await self._call(f"submit {key}")

    async def poll(self, external_id: str) -> TaskUpdate:
        return TaskUpdate(status=await self._call(f"poll {external_id}"))

    async def _call(self, line: str) -> str:
        host, port = self.provider.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"{os.getpid()} {line}\n".encode())
            answer = (await reader.readline()).decode().strip()
        finally:
            writer.close()
        if not answer:
            raise ConnectionResetError("the provider did not answer")
        return answer


def make_app(database: str, provider: str, *, lease_seconds: float = 30.0) -> App:
    jobs = Jobs(
        provider=provider,
        expected_seconds=0.2,
        poll_seconds_max=1.0,
        poll_timeout_seconds=1.5,
        poll_lease_seconds=lease_seconds,
        polls_at_once=32,
        submits_at_once=32,
    )
    return App(entities=[Job], integrations={"jobs": jobs}, database=database)
