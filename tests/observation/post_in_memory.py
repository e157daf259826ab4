"""The app of these tests by name, as commands are given it."""

from tests.observation.post import post

app = post()
