"""Worker pools."""

import unittest

from platform_under_test import As, PlatformTest, anonymous, create_task, later, root, slugid, unique, with_scopes

worker_manager = root.worker_manager


def definition(**more):
    return {
        "providerId": "local",
        "description": "made by the official-client suite",
        "owner": "nobody@example.com",
        "emailOnError": False,
        "config": {"minCapacity": 0, "maxCapacity": 0},
        **more,
    }


def pool_id():
    return "official/" + unique("p").lower() + "0"


class WorkerPools(PlatformTest):
    def test_a_pool_lives_from_its_creation_to_its_deletion(self):
        worker_pool_id = pool_id()
        created = worker_manager.createWorkerPool(worker_pool_id, definition())
        self.assertEqual((created["workerPoolId"], created["currentCapacity"]), (worker_pool_id, 0))
        with self.fails(409, "RequestConflict"):
            worker_manager.createWorkerPool(worker_pool_id, definition(description="another"))
        worker_manager.updateWorkerPool(worker_pool_id, definition(description="changed"))
        self.assertEqual(worker_manager.workerPool(worker_pool_id)["description"], "changed")
        pools, _ = self.pages(worker_manager.listWorkerPools, key="workerPools", limit=2)
        self.assertIn(worker_pool_id, [pool["workerPoolId"] for pool in pools])
        self.assertEqual(worker_manager.listWorkersForWorkerPool(worker_pool_id)["workers"], [])
        worker_manager.deleteWorkerPool(worker_pool_id)

    def test_bad_pools_are_refused(self):
        with self.fails(400, "InputError"):
            worker_manager.createWorkerPool(pool_id(), definition(providerId="no-such-provider"))
        with self.fails(400, "InputValidationError"):
            worker_manager.createWorkerPool(pool_id(), definition(owner="nobody"))
        with self.fails(404, "ResourceNotFound"):
            worker_manager.workerPool(pool_id())

    def test_a_pool_takes_scopes(self):
        with self.fails(403, "InsufficientScopes"):
            As(with_scopes("official:nothing")).worker_manager.createWorkerPool(pool_id(), definition())

    def test_the_providers_are_listed(self):
        self.assertIn("local", [one["providerId"] for one in worker_manager.listProviders()["providers"]])


class Workers(PlatformTest):
    def test_a_machine_that_is_there_is_made_known_and_works(self):
        worker_type = unique("p").lower()[:37] + "0"
        worker_pool_id = "official/" + worker_type
        worker_manager.createWorkerPool(worker_pool_id, definition(providerId="static", config={}))
        who = (worker_pool_id, "shelf", "machine")
        proof = {"staticSecret": slugid() + slugid()}
        worker = {"expires": later("1 day"), "providerInfo": proof}
        self.assertEqual(worker_manager.createWorker(*who, worker)["state"], "running")
        self.assertEqual(worker_manager.updateWorker(*who, {**worker, "capacity": 2})["capacity"], 2)
        identity = {"workerPoolId": who[0], "workerGroup": who[1], "workerId": who[2]}
        registered = anonymous.worker_manager.registerWorker({**identity, "providerId": "static", "workerIdentityProof": proof})
        renewed = As(registered["credentials"]).worker_manager.reregisterWorker({**identity, "secret": registered["secret"]})
        me = As(renewed["credentials"])
        self.assertFalse(me.worker_manager.shouldWorkerTerminate(*who)["terminate"])
        self.assertEqual(worker_manager.worker(*who)["state"], "running")
        self.assertEqual([one["workerId"] for one in worker_manager.listWorkersForWorkerGroup(*who[:2])["workers"]], ["machine"])
        self.assertEqual(worker_manager.workerPoolStats(worker_pool_id)["launchConfigStats"][0]["runningCapacity"], 2)
        reported = me.worker_manager.reportWorkerError(worker_pool_id, {
            "workerGroup": who[1], "workerId": who[2], "kind": "disk-full", "title": "The disk is full", "description": "", "extra": {},
        })
        errors, _ = self.pages(worker_manager.listWorkerPoolErrors, worker_pool_id, key="workerPoolErrors", limit=1)
        self.assertEqual([one["errorId"] for one in errors], [reported["errorId"]])
        task_id = create_task(worker_pool_id)
        claimed = me.queue.claimWork(worker_pool_id, {"workerGroup": who[1], "workerId": who[2], "tasks": 1})
        self.assertEqual([one["status"]["taskId"] for one in claimed["tasks"]], [task_id])
        joined = worker_manager.getWorker("official", worker_type, who[1], who[2])
        self.assertEqual((joined["state"], joined["capacity"], joined["recentTasks"][-1]["taskId"]), ("running", 2, task_id))
        listed, _ = self.pages(worker_manager.listWorkers, "official", worker_type, key="workers", limit=1)
        self.assertEqual([one["workerId"] for one in listed], ["machine"])
        configs = worker_manager.listWorkerPoolLaunchConfigs(worker_pool_id)["workerPoolLaunchConfigs"]
        self.assertEqual([one["isArchived"] for one in configs], [False])
        self.assertEqual(worker_manager.workerPoolErrorStats(query={"workerPoolId": worker_pool_id})["totals"]["total"], 1)
        figures, _ = self.pages(worker_manager.listWorkerPoolsStats, key="workerPoolsStats", limit=50)
        self.assertIn((worker_pool_id, 1), [(one["workerPoolId"], one["runningCount"]) for one in figures])
        worker_manager.removeWorker(*who)
        worker_manager.deleteWorkerPool(worker_pool_id)


if __name__ == "__main__":
    unittest.main()
