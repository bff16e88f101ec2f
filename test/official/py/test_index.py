"""Tasks are found by the paths that their routes name, and by those that somebody puts them at."""

import unittest

import requests
import taskcluster.aio

from platform_under_test import (
    ROOT, ROOT_URL, As, PlatformTest, create_task, found, later, root, running_task, task_queue, unique, until, with_scopes,
)

index = root.index
EXPIRES = later("1 hour")


def namespace():
    return "official." + unique("n")


def entry(**more):
    return {"taskId": create_task(task_queue()), "rank": 0, "data": {}, "expires": EXPIRES, **more}


class Indexed(PlatformTest):
    def test_a_task_that_has_completed_is_found_by_its_route(self):
        path = namespace()
        running = running_task(routes=["index." + path], extra={"index": {"rank": 3, "data": {"hello": "world"}, "expires": EXPIRES}})
        with self.fails(404, "ResourceNotFound"):
            index.findTask(path)
        running.queue.createArtifact(running.task_id, 0, "private/ref", {
            "storageType": "reference", "contentType": "text/html", "expires": EXPIRES, "url": "https://example.com/official",
        })
        running.queue.reportCompleted(running.task_id, 0)
        indexed = until("the task is indexed", lambda: found(index.findTask, path))
        self.assertEqual(indexed, {"namespace": path, "taskId": running.task_id, "rank": 3, "data": {"hello": "world"}, "expires": EXPIRES})

        url = index.findArtifactFromTask(path, "private/ref")["url"]
        self.assertEqual(requests.get(url, allow_redirects=False).headers["location"], "https://example.com/official")
        signed = index.buildSignedUrl("findArtifactFromTask", path, "private/ref")
        self.assertEqual(requests.get(signed, allow_redirects=False).status_code, 303)
        with self.needs("queue:get-artifact:private/ref"):
            As(with_scopes("queue:get-artifact:public/*")).index.findArtifactFromTask(path, "private/ref")

    def test_ranks_lists_and_removal(self):
        path = namespace()
        names = [f"{path}.{name}" for name in "abc"]
        for name in names:
            index.insertTask(name, entry())
            index.insertTask(name + ".below", entry(rank=2))
        above = index.insertTask(names[0], entry(rank=1))
        index.insertTask(names[0], entry())
        self.assertEqual(index.findTask(names[0]), above)
        tasks, count = self.pages(index.listTasks, path, key="tasks", limit=2)
        self.assertEqual(([one["namespace"] for one in tasks], count), (names, 2))
        namespaces, _ = self.pages(index.listNamespaces, path, key="namespaces", limit=1)
        self.assertEqual([one["namespace"] for one in namespaces], names)
        several, _ = self.pages(index.findTasksAtIndex, key="tasks", limit=2, payload={"indexes": [*names, path + ".nothing"]})
        self.assertEqual(sorted(one["namespace"] for one in several), names)
        index.deleteTask(names[0])
        with self.fails(404, "ResourceNotFound"):
            index.findTask(names[0])

    def test_it_takes_scopes(self):
        path = namespace()
        poor = As(with_scopes("official:nothing")).index
        with self.needs("index:insert-task:" + path):
            poor.insertTask(path, entry())
        with self.needs("index:delete-task:" + path):
            poor.deleteTask(path)


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_the_asynchronous_client(self):
        async with taskcluster.aio.createSession() as session:
            asynchronous = taskcluster.aio.Index({"rootUrl": ROOT_URL, "credentials": dict(ROOT), "maxRetries": 0}, session=session)
            path = namespace()
            inserted = await asynchronous.insertTask(path, entry())
            self.assertEqual(await asynchronous.findTask(path), inserted)
            pages = []
            await asynchronous.listTasks(path.rpartition(".")[0], query={}, paginationHandler=pages.append, paginationLimit=1)
            self.assertIn(inserted, [one for page in pages for one in page["tasks"]])


if __name__ == "__main__":
    unittest.main()
