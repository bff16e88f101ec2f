"""What every file of this suite needs: the platform from the environment, clients of it, and tasks to play with.

The JavaScript suite uses the same platform at the same time, so each test works on names of its own.
"""

import contextlib
import os
import time
import unittest
import urllib.parse

import requests
import taskcluster

import calls

OPTIONS = taskcluster.optionsFromEnvironment()
ROOT_URL = OPTIONS["rootUrl"]
ROOT = OPTIONS["credentials"]
WORKER = {"workerGroup": "official", "workerId": "python-suite"}

# The services, by the names of the attributes of As.
SERVICES = {
    "auth": "Auth",
    "queue": "Queue",
    "index": "Index",
    "hooks": "Hooks",
    "secrets": "Secrets",
    "purge_cache": "PurgeCache",
    "object": "Object",
    "notify": "Notify",
    "worker_manager": "WorkerManager",
}
calls.record(*SERVICES.values())

slugid = taskcluster.slugId
from_now = taskcluster.fromNow


def later(offset):
    """A time without fractions of a second: the platform keeps milliseconds, and the client would send microseconds."""
    return taskcluster.stringDate(from_now(offset).replace(microsecond=0)).replace("Z", ".000Z")


class As:
    """Clients of a holder of credentials. They do not retry: a 500 is a failure, not a pause."""

    def __init__(self, credentials, **more):
        # The client changes the credentials that it is given, so each gets its own.
        for name, kind in SERVICES.items():
            own = {"credentials": dict(credentials)} if credentials else {}
            setattr(self, name, getattr(taskcluster, kind)({"rootUrl": ROOT_URL, "maxRetries": 0, **more, **own}))


root = As(ROOT)
anonymous = As(None)


def unique(prefix):
    return f"{prefix}-{slugid().replace('_', '-')}"


def with_scopes(*scopes):
    """The credentials of a new client with exactly these scopes."""
    client_id = "official/" + unique("client")
    client = root.auth.createClient(
        client_id, {"expires": later("1 hour"), "description": "made by the official-client suite", "scopes": list(scopes)}
    )
    return {"clientId": client_id, "accessToken": client["accessToken"]}


def temporary(issuer, scopes, name=None, start="-1 minute", expiry="10 minutes"):
    return taskcluster.createTemporaryCredentials(
        issuer["clientId"], issuer["accessToken"], from_now(start), from_now(expiry), list(scopes), name=name
    )


def task_queue():
    """A task queue of one test alone."""
    return "official/" + unique("q").lower()


def task_for(task_queue_id, **more):
    return {
        "taskQueueId": task_queue_id,
        "created": later("0 seconds"),
        "deadline": later("1 hour"),
        "payload": {"command": [["true"]]},
        "metadata": {
            "name": "official client suite",
            "description": "nobody runs this",
            "owner": "nobody@example.com",
            "source": "https://example.com/suite",
        },
        **more,
    }


def create_task(task_queue_id, **more):
    task_id = slugid()
    root.queue.createTask(task_id, task_for(task_queue_id, **more))
    return task_id


class Claim:
    """A run that this suite is the worker of, with the queue as its credentials let it be seen."""

    def __init__(self, claimed):
        self.task_id = claimed["status"]["taskId"]
        self.run_id = claimed["runId"]
        self.task_queue_id = claimed["status"]["taskQueueId"]
        self.taken_until = claimed["takenUntil"]
        self.queue = As(claimed["credentials"]).queue


def claim(task_queue_id, tasks=1):
    return [Claim(one) for one in root.queue.claimWork(task_queue_id, {**WORKER, "tasks": tasks})["tasks"]]


def running_task(**more):
    task_queue_id = task_queue()
    create_task(task_queue_id, **more)
    [claimed] = claim(task_queue_id)
    return claimed


def until(what, call):
    """What call answers as soon as that is something. There is nothing to wait on in another process, so it asks again."""
    end = time.monotonic() + 180  # for machines that are slow beyond reason
    while not (answer := call()):
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.05)
    return answer


def received(to):
    """What has come to an email address, a channel of Slack or a room of Matrix, all of which official_test.go stands in for."""
    return requests.get(f"{os.environ['OFFICIAL_OUTSIDE']}/received/{urllib.parse.quote(to, safe='')}").json()


def found(method, *args):
    """None where there is nothing, for until()."""
    try:
        return method(*args)
    except taskcluster.exceptions.TaskclusterRestFailure as error:
        if error.status_code != 404:
            raise
        return None


class PlatformTest(unittest.TestCase):
    """A test that can say how a call fails."""

    maxDiff = None

    @contextlib.contextmanager
    def fails(self, status, code):
        """The error of the block, after a look at what the client makes of every error."""
        kind = taskcluster.exceptions.TaskclusterAuthFailure if status == 401 else taskcluster.exceptions.TaskclusterRestFailure
        with self.assertRaises(kind) as caught:
            yield caught
        error = caught.exception
        self.assertEqual((error.status_code, error.body["code"]), (status, code), str(error))
        self.assertEqual(error.body["message"], str(error))
        self.assertEqual(sorted(error.body["requestInfo"]), ["method", "params", "payload", "time"])
        self.assertRegex(str(error), rf"\n\n---\n\n\* method:     \w+\n\* errorCode:  {code}\n\* statusCode: {status}\n\* time:       \S+$")

    @contextlib.contextmanager
    def needs(self, scope):
        """The block makes a call that its caller lacks a scope for."""
        with self.fails(403, "InsufficientScopes") as caught:
            yield caught
        self.assertIn(scope, str(caught.exception))

    def pages(self, method, *args, key, limit, payload=None):
        """All entries of a list, page by page as the client does it."""
        pages = []
        params = dict(zip(root_arguments(method), args))
        more = {} if payload is None else {"payload": payload}
        method(params=params, query={}, paginationHandler=pages.append, paginationLimit=limit, **more)
        for page in pages:
            self.assertLessEqual(len(page[key]), limit)
        return [entry for page in pages for entry in page[key]], len(pages)


def root_arguments(method):
    return method.__self__.funcinfo[method.__name__]["args"]
