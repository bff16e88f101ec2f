"""The life of a task, and what it leaves."""

import unittest

import requests
import taskcluster
import taskcluster.aio
from taskcluster.download import downloadArtifactToBuf

from platform_under_test import (
    ROOT, ROOT_URL, WORKER, As, PlatformTest, claim, create_task, later, root, running_task, slugid, task_for, task_queue, with_scopes,
)

queue = root.queue


def state(task_id):
    return queue.status(task_id)["status"]["state"]


class Creating(PlatformTest):
    def test_a_task_is_pending_and_may_be_created_again(self):
        task_id, definition = slugid(), task_for(task_queue())
        status = queue.createTask(task_id, definition)
        self.assertEqual(status["status"]["state"], "pending")
        self.assertEqual(queue.createTask(task_id, definition), status)
        with self.fails(409, "RequestConflict"):
            queue.createTask(task_id, {**definition, "payload": {}})
        self.assertEqual(queue.task(task_id)["payload"], definition["payload"])

    def test_bad_input_is_refused(self):
        for code, more in [
            ("InputError", {"deadline": later("-1 hour")}),
            ("InputError", {"deadline": later("6 days")}),
            ("InputError", {"dependencies": [slugid()]}),
            ("InputValidationError", {"priority": "urgent"}),
            ("InputValidationError", {"colour": "blue"}),
        ]:
            with self.subTest(more), self.fails(400, code):
                queue.createTask(slugid(), task_for(task_queue(), **more))
        for read in (queue.task, queue.status, queue.cancelTask):
            with self.fails(404, "ResourceNotFound"):
                read(slugid())

    def test_creating_takes_scopes(self):
        with self.fails(403, "InsufficientScopes") as caught:
            As(with_scopes("official:nothing")).queue.createTask(slugid(), task_for("official/forbidden"))
        self.assertIn("queue:create-task:lowest:official/forbidden", str(caught.exception))

    def test_many_are_read_at_once(self):
        task_queue_id = task_queue()
        task_ids = sorted(create_task(task_queue_id) for _ in range(3))
        tasks, _ = self.pages(queue.tasks, key="tasks", limit=2, payload={"taskIds": task_ids})
        self.assertEqual(sorted(one["taskId"] for one in tasks), task_ids)
        statuses = queue.statuses({"taskIds": task_ids})["statuses"]
        self.assertEqual(sorted(one["taskId"] for one in statuses), task_ids)


class Running(PlatformTest):
    def test_dependencies_claim_reclaim_and_completion(self):
        task_queue_id = task_queue()
        first = create_task(task_queue_id)
        second = create_task(task_queue_id, dependencies=[first])
        [running] = claim(task_queue_id, 4)
        self.assertEqual((running.task_id, state(second)), (first, "unscheduled"))
        again = running.queue.reclaimTask(first, 0)
        self.assertGreaterEqual(again["takenUntil"], running.taken_until)
        renewed = As(again["credentials"]).queue
        status = renewed.reportCompleted(first, 0)
        self.assertEqual(status["status"]["state"], "completed")
        self.assertEqual(renewed.reportCompleted(first, 0), status)
        with self.fails(409, "RequestConflict"):
            renewed.reportFailed(first, 0)
        [then] = claim(task_queue_id)
        self.assertEqual(then.task_id, second)
        dependents, _ = self.pages(queue.listDependentTasks, first, key="tasks", limit=1)
        self.assertEqual([one["status"]["taskId"] for one in dependents], [second])

    def test_retry_rerun_and_cancel(self):
        running = running_task(retries=1)
        status = running.queue.reportException(running.task_id, 0, {"reason": "worker-shutdown"})["status"]
        self.assertEqual((status["state"], status["retriesLeft"], status["runs"][1]["reasonCreated"]), ("pending", 0, "retry"))
        [running] = claim(running.task_queue_id)
        self.assertEqual(running.queue.reportFailed(running.task_id, 1)["status"]["state"], "failed")
        status = queue.rerunTask(running.task_id)["status"]
        self.assertEqual((status["state"], status["retriesLeft"], status["runs"][2]["reasonCreated"]), ("pending", 1, "rerun"))
        status = queue.cancelTask(running.task_id)["status"]
        self.assertEqual((status["state"], status["runs"][2]["reasonResolved"]), ("exception", "canceled"))

    def test_a_run_is_its_workers_alone(self):
        one, two = running_task(), running_task()
        with self.fails(403, "InsufficientScopes"):
            one.queue.reportCompleted(two.task_id, 0)

    def test_counts(self):
        task_queue_id = task_queue()
        for _ in range(3):
            create_task(task_queue_id)
        self.assertEqual(len(claim(task_queue_id, 2)), 2)
        self.assertEqual(queue.pendingTasks(task_queue_id)["pendingTasks"], 1)
        counts = queue.taskQueueCounts(task_queue_id)
        self.assertEqual((counts["pendingTasks"], counts["claimedTasks"]), (1, 2))

    def test_what_waits_and_what_is_claimed_is_listed(self):
        task_queue_id = task_queue()
        task_ids = [create_task(task_queue_id) for _ in range(4)]
        claimed = claim(task_queue_id, 2)
        pending, _ = self.pages(queue.listPendingTasks, task_queue_id, key="tasks", limit=1)
        self.assertEqual([one["taskId"] for one in pending], task_ids[2:])
        listed, _ = self.pages(queue.listClaimedTasks, task_queue_id, key="tasks", limit=1)
        self.assertEqual(sorted(one["taskId"] for one in listed), sorted(one.task_id for one in claimed))

    def test_a_task_is_scheduled_and_claimed_by_its_id(self):
        task_queue_id, task_id = task_queue(), slugid()
        queue.createTask(task_id, task_for(task_queue_id, dependencies=[task_id]))
        self.assertEqual(queue.scheduleTask(task_id)["status"]["state"], "pending")
        claimed = queue.claimTask(task_id, 0, WORKER)
        self.assertEqual(As(claimed["credentials"]).queue.reportCompleted(task_id, 0)["status"]["state"], "completed")
        with self.fails(409, "RequestConflict"):
            queue.claimTask(task_id, 0, WORKER)

    def test_priorities_are_changed(self):
        task_queue_id = task_queue()
        first, second, third = (create_task(task_queue_id) for _ in range(3))
        self.assertEqual(queue.changeTaskPriority(third, {"newPriority": "high"})["status"]["priority"], "high")
        changed = queue.changeTaskGroupPriority(second, {"newPriority": "medium"})
        self.assertEqual((changed["newPriority"], changed["taskIds"]), ("medium", [second]))
        self.assertEqual([claim(task_queue_id)[0].task_id for _ in range(3)], [third, second, first])
        with self.needs(f"queue:change-task-priority:{first}"):
            As(with_scopes("official:nothing")).queue.changeTaskPriority(first, {"newPriority": "low"})

    def test_queues_and_workers_are_remembered(self):
        running = running_task()
        provisioner_id, worker_type = running.task_queue_id.split("/")
        who = (provisioner_id, worker_type, WORKER["workerGroup"], WORKER["workerId"])
        self.assertEqual(queue.getTaskQueue(running.task_queue_id)["taskQueueId"], running.task_queue_id)
        self.assertEqual(queue.getWorkerType(provisioner_id, worker_type)["workerType"], worker_type)
        self.assertEqual(queue.getProvisioner(provisioner_id)["provisionerId"], provisioner_id)
        queues, _ = self.pages(queue.listTaskQueues, key="taskQueues", limit=50)
        self.assertIn(running.task_queue_id, [one["taskQueueId"] for one in queues])
        types, _ = self.pages(queue.listWorkerTypes, provisioner_id, key="workerTypes", limit=50)
        self.assertIn(worker_type, [one["workerType"] for one in types])
        provisioners, _ = self.pages(queue.listProvisioners, key="provisioners", limit=50)
        self.assertIn(provisioner_id, [one["provisionerId"] for one in provisioners])
        workers, _ = self.pages(queue.listWorkers, provisioner_id, worker_type, key="workers", limit=1)
        self.assertEqual([one["latestTask"]["taskId"] for one in workers], [running.task_id])
        self.assertEqual(queue.getWorker(*who)["recentTasks"], [{"taskId": running.task_id, "runId": 0}])
        until = later("1 hour")
        self.assertEqual(queue.quarantineWorker(*who, {"quarantineUntil": until, "quarantineInfo": "broken"})["quarantineUntil"], until)
        self.assertEqual(queue.listWorkers(provisioner_id, worker_type, query={"quarantined": "false"})["workers"], [])
        declared = queue.declareWorker(*who[:3], "another", {"expires": later("1 day")})
        self.assertEqual((declared["workerId"], declared["recentTasks"]), ("another", []))
        with self.fails(404, "ResourceNotFound"):
            queue.getWorker(*who[:3], "no-such-worker")
        with self.needs("queue:quarantine-worker:"):
            As(with_scopes("official:nothing")).queue.quarantineWorker(*who, {"quarantineUntil": until})

    def test_groups(self):
        task_queue_id, group = task_queue(), slugid()
        task_ids = sorted(create_task(task_queue_id, taskGroupId=group, schedulerId="official") for _ in range(5))
        tasks, count = self.pages(queue.listTaskGroup, group, key="tasks", limit=2)
        self.assertEqual(sorted(one["status"]["taskId"] for one in tasks), task_ids)
        self.assertGreaterEqual(count, 3)
        sealed = queue.sealTaskGroup(group)["sealed"]
        self.assertEqual(queue.getTaskGroup(group)["sealed"], sealed)
        with self.fails(409, "RequestConflict"):
            queue.createTask(slugid(), task_for(task_queue_id, taskGroupId=group, schedulerId="official"))
        self.assertEqual(queue.cancelTaskGroup(group)["cancelledCount"], 5)


class Artifacts(PlatformTest):
    expires = later("1 hour")

    def create(self, running, name, storage_type, **more):
        return running.queue.createArtifact(
            running.task_id, running.run_id, name, {"storageType": storage_type, "expires": self.expires, **more}
        )

    def upload(self, running, name, content, content_type):
        url = self.create(running, name, "s3", contentType=content_type)["putUrl"]
        put = requests.put(url, data=content, headers={"Content-Type": content_type})
        self.assertEqual(put.status_code, 200, put.text)

    def download(self, task_id, name, **more):
        content, content_type = downloadArtifactToBuf(
            taskId=task_id, name=name, queueService=queue, maxRetries=0, **more
        )
        return bytes(content), content_type

    def test_upload_list_and_download(self):
        running = running_task()
        content = bytes(range(256)) * 4096
        self.upload(running, "public/build/out.bin", content, "application/octet-stream")
        running.queue.reportCompleted(running.task_id, 0)
        [listed] = queue.listLatestArtifacts(running.task_id)["artifacts"]
        self.assertEqual((listed["storageType"], listed["name"], listed["contentType"]), ("s3", "public/build/out.bin", "application/octet-stream"))
        self.assertEqual(queue.listArtifacts(running.task_id, 0)["artifacts"], [listed])
        self.assertEqual(self.download(running.task_id, "public/build/out.bin"), (content, "application/octet-stream"))
        self.assertEqual(self.download(running.task_id, "public/build/out.bin", runId=0), (content, "application/octet-stream"))

        self.assertEqual(queue.getLatestArtifact(running.task_id, "public/build/out.bin")["storageType"], "s3")
        self.assertEqual(queue.getArtifact(running.task_id, 0, "public/build/out.bin")["storageType"], "s3")
        with self.fails(404, "ResourceNotFound"):
            queue.getLatestArtifact(running.task_id, "public/nothing")

        url = queue.buildSignedUrl("getLatestArtifact", running.task_id, "public/build/out.bin")
        redirect = requests.get(url, allow_redirects=False)
        self.assertEqual(redirect.status_code, 303)
        self.assertEqual(redirect.headers["x-taskcluster-artifact-storage-type"], "s3")
        self.assertEqual(redirect.json(), {"storageType": "s3", "url": redirect.headers["location"]})
        self.assertEqual(requests.get(url).content, content)

    def test_a_copy_is_downloaded(self):
        """The platform believes that this machine is in another region than the artifacts."""
        running = running_task()
        content = bytes(range(256)) * 40_000
        self.upload(running, "public/copied.bin", content, "application/x-copied")
        running.queue.reportCompleted(running.task_id, 0)
        self.assertIn("/mirror-away/", queue.latestArtifact(running.task_id, "public/copied.bin")["url"])
        self.assertEqual(self.download(running.task_id, "public/copied.bin"), (content, "application/x-copied"))

    def test_references_links_and_errors(self):
        running = running_task()
        self.upload(running, "public/real.txt", b"real", "text/plain")
        self.create(running, "public/link.txt", "link", artifact="public/real.txt")
        self.create(running, "public/ref", "reference", contentType="text/html", url="https://example.com/")
        self.create(running, "public/error", "error", reason="file-missing-on-worker", message="there was none")
        self.assertEqual(self.download(running.task_id, "public/link.txt"), (b"real", "text/plain"))
        self.assertEqual(queue.latestArtifact(running.task_id, "public/ref"), {"storageType": "reference", "url": "https://example.com/"})
        with self.assertRaises(taskcluster.exceptions.TaskclusterArtifactError) as caught:
            self.download(running.task_id, "public/error")
        self.assertEqual((str(caught.exception), caught.exception.reason), ("there was none", "file-missing-on-worker"))
        signed = queue.buildSignedUrl("getArtifact", running.task_id, 0, "public/error")
        self.assertEqual(requests.get(signed).status_code, 424)
        names, count = self.pages(queue.listArtifacts, running.task_id, 0, key="artifacts", limit=1)
        self.assertEqual(sorted(one["name"] for one in names), ["public/error", "public/link.txt", "public/real.txt", "public/ref"])
        self.assertGreaterEqual(count, 4)


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_a_worker_of_the_asynchronous_client(self):
        async with taskcluster.aio.createSession() as session:
            options = {"rootUrl": ROOT_URL, "maxRetries": 0}
            everything = taskcluster.aio.Queue({**options, "credentials": dict(ROOT)}, session=session)
            task_queue_id, task_id = task_queue(), slugid()
            await everything.createTask(task_id, task_for(task_queue_id))
            [claimed] = (await everything.claimWork(task_queue_id, {**WORKER, "tasks": 1}))["tasks"]
            self.assertEqual(claimed["status"]["taskId"], task_id)
            own = taskcluster.aio.Queue({**options, "credentials": claimed["credentials"]}, session=session)
            status = await own.reportCompleted(task_id, claimed["runId"])
            self.assertEqual(status["status"]["state"], "completed")


if __name__ == "__main__":
    unittest.main()
