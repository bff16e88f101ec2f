"""Keeps a record of which methods the suite calls, and how the calls end, for official_test.go to find methods that no test
has called. The tests call the client as it is: its methods are wrapped, and whatever wraps them passes all on.

The record is left in the directory OFFICIAL_CALLS. It names every method of every client, called or not.
"""

import atexit
import functools
import inspect
import json
import os
import pathlib

import taskcluster
import taskcluster.aio

_calls = {}


class _Outcome:
    """Counts how a call ends."""

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if error is None:
            self.count["succeeded"] += 1
        elif status := getattr(error, "status_code", None):
            self.count["refused"][status] = self.count["refused"].get(status, 0) + 1


def _recorded(method, count):
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call(*args, **kwargs):
            with _Outcome(count):
                return await method(*args, **kwargs)

    else:

        @functools.wraps(method)
        def call(*args, **kwargs):
            with _Outcome(count):
                return method(*args, **kwargs)

    return call


def record(*names):
    """Records the calls of the client classes of these names, of both kinds."""
    for kind in (taskcluster, taskcluster.aio):
        for name in names:
            client = getattr(kind, name)
            service = _calls.setdefault(client.serviceName, {})
            for method in client.funcinfo:
                count = service.setdefault(method, {"succeeded": 0, "refused": {}})
                setattr(client, method, _recorded(getattr(client, method), count))


if directory := os.environ.get("OFFICIAL_CALLS"):
    file = pathlib.Path(directory, f"python-{os.getpid()}.json")
    atexit.register(lambda: file.write_text(json.dumps(_calls)))
