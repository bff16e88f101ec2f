"""Secrets, and the requests to purge caches."""

import os
import unittest
from unittest import mock

from taskcluster.helper import TaskclusterConfig

from platform_under_test import ROOT_URL, ROOT, As, PlatformTest, later, root, task_queue, unique, with_scopes

secrets, purge_cache = root.secrets, root.purge_cache


class Secrets(PlatformTest):
    def test_a_secret_lives_from_its_first_value_to_its_removal(self):
        name = f"official/{unique('s')}/with a space"
        value = {"secret": {"token": "abc", "nested": [1, "ü"]}, "expires": later("1 hour")}
        secrets.set(name, value)
        self.assertEqual(secrets.get(name), value)
        secrets.set(name, {**value, "secret": {}})
        self.assertEqual(secrets.get(name)["secret"], {})
        names, _ = self.pages(secrets.list, key="secrets", limit=1)
        self.assertIn(name, names)
        secrets.remove(name)
        with self.fails(404, "ResourceNotFound"):
            secrets.get(name)
        history, count = self.pages(root.auth.getEntityHistory, "secret", name, key="auditHistory", limit=1)
        self.assertEqual(([one["actionType"] for one in history], count), (["created", "updated", "deleted"], 3))

    def test_it_takes_scopes(self):
        name = "official/" + unique("s")
        poor = As(with_scopes("secrets:get:official/other")).secrets
        for scope, call in [
            ("secrets:get:" + name, lambda: poor.get(name)),
            ("secrets:set:" + name, lambda: poor.set(name, {"secret": {}, "expires": later("1 hour")})),
            ("secrets:set:" + name, lambda: poor.remove(name)),
            ("secrets:list-secrets", poor.list),
        ]:
            with self.needs(scope):
                call()

    def test_the_clients_own_way_to_load_secrets(self):
        name = "official/" + unique("s")
        secrets.set(name, {"secret": {"common": {"color": "red"}, "suite": {"size": 3}}, "expires": later("1 hour")})
        with mock.patch.dict(os.environ, clear=True):
            config = TaskclusterConfig(ROOT_URL)
            config.auth(ROOT["clientId"], ROOT["accessToken"], max_retries=0)
            config.load_secrets(name, prefixes=["common", "suite"], required=["color", "size"])
        self.assertEqual(config.secrets, {"color": "red", "size": 3})


class PurgeCache(PlatformTest):
    def test_a_worker_is_told_what_to_purge(self):
        pool = task_queue()
        worker = As(with_scopes(f"purge-cache:purge-requests::{pool}")).purge_cache
        self.assertEqual(worker.purgeRequests(pool), {"requests": []})
        purge_cache.purgeCache(pool, {"cacheName": "checkouts"})
        [request] = worker.purgeRequests(pool)["requests"]
        self.assertEqual((f"{request['provisionerId']}/{request['workerType']}", request["cacheName"]), (pool, "checkouts"))
        self.assertEqual(worker.purgeRequests(pool, query={"since": later("1 hour")})["requests"], [])
        self.assertEqual(worker.purgeRequests(pool, query={"since": later("-1 hour")})["requests"], [request])
        every, _ = self.pages(purge_cache.allPurgeRequests, key="requests", limit=1)
        self.assertIn(request, every)

    def test_it_takes_scopes(self):
        pool = task_queue()
        poor = As(with_scopes("official:nothing")).purge_cache
        with self.needs(f"purge-cache:{pool}:checkouts"):
            poor.purgeCache(pool, {"cacheName": "checkouts"})


if __name__ == "__main__":
    unittest.main()
