"""What is there without credentials."""

import unittest

import requests
import taskcluster

from platform_under_test import ROOT_URL, SERVICES, PlatformTest, anonymous, root

# A method that is younger than the API that is served here.
LATER = {"taskQueueCountsBatch"}


def reference(service):
    return requests.get(f"{ROOT_URL}/references/{service}/v1/api.json").json()


class Platform(PlatformTest):
    def test_services_are_alive_and_tell_their_version(self):
        for name in SERVICES:
            with self.subTest(name):
                service = getattr(anonymous, name)
                self.assertIs(service.ping()["alive"], True)
                self.assertEqual(sorted(service.version()), ["build", "commit", "source", "version"])
                service.heartbeat()
                service.lbheartbeat()

    def test_the_manifest_lists_the_references(self):
        manifest = requests.get(f"{ROOT_URL}/references/manifest.json").json()
        for kind in SERVICES.values():
            service = getattr(taskcluster, kind).serviceName
            self.assertIn(f"{ROOT_URL}/references/{service}/v1/api.json", manifest["references"])
            self.assertEqual(reference(service)["serviceName"], service)

    def test_all_that_the_client_knows_is_served_as_the_client_knows_it(self):
        for kind in SERVICES.values():
            client = getattr(taskcluster, kind)
            served = {entry["name"]: entry for entry in reference(client.serviceName)["entries"]}
            for name, known in client.funcinfo.items():
                if name in LATER:
                    continue
                with self.subTest(kind + "." + name):
                    for key in ("method", "route", "args", "query", "input", "output", "stability"):
                        self.assertEqual(served[name].get(key) or None, known.get(key) or None, key)

    def test_what_is_younger_than_the_api_is_not_found(self):
        with self.assertRaises(taskcluster.exceptions.TaskclusterRestFailure) as caught:
            root.queue.taskQueueCountsBatch({"taskQueueIds": ["official/suite"]})
        self.assertEqual((caught.exception.status_code, caught.exception.body), (404, {"error": "Not found"}))

    def test_a_payload_that_does_not_fit_is_refused_before_anything_else(self):
        with self.fails(400, "InputValidationError") as caught:
            anonymous.queue.createTask("fN1SbArXTPSVFNUvaOlinQ", {"colour": "blue"})
        self.assertEqual(caught.exception.body["requestInfo"]["method"], "createTask")
        self.assertEqual(caught.exception.body["requestInfo"]["params"], {"taskId": "fN1SbArXTPSVFNUvaOlinQ"})


if __name__ == "__main__":
    unittest.main()
