"""Worker pools."""

import unittest

from platform_under_test import As, PlatformTest, root, unique, with_scopes

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


if __name__ == "__main__":
    unittest.main()
