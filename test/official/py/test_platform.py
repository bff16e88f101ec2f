"""What is there without credentials."""

import unittest

import requests

from platform_under_test import ROOT_URL, PlatformTest, anonymous


class Platform(PlatformTest):
    def test_services_are_alive_and_tell_their_version(self):
        for name in ("auth", "queue", "worker_manager"):
            with self.subTest(name):
                service = getattr(anonymous, name)
                self.assertIs(service.ping()["alive"], True)
                self.assertEqual(sorted(service.version()), ["build", "commit", "source", "version"])
                service.heartbeat()
                service.lbheartbeat()

    def test_the_manifest_lists_the_references(self):
        manifest = requests.get(f"{ROOT_URL}/references/manifest.json").json()
        for service in ("auth", "queue", "worker-manager"):
            url = f"{ROOT_URL}/references/{service}/v1/api.json"
            self.assertIn(url, manifest["references"])
            self.assertEqual(requests.get(url).json()["serviceName"], service)

    def test_a_payload_that_does_not_fit_is_refused_before_anything_else(self):
        with self.fails(400, "InputValidationError") as caught:
            anonymous.queue.createTask("fN1SbArXTPSVFNUvaOlinQ", {"colour": "blue"})
        self.assertEqual(caught.exception.body["requestInfo"]["method"], "createTask")
        self.assertEqual(caught.exception.body["requestInfo"]["params"], {"taskId": "fN1SbArXTPSVFNUvaOlinQ"})


if __name__ == "__main__":
    unittest.main()
