"""Objects: the client's own upload and download, and artifacts that are objects."""

import base64
import hashlib
import io
import os
import unittest

import requests
import taskcluster.aio
from taskcluster import download, upload
from taskcluster.aio import download as aio_download
from taskcluster.aio import upload as aio_upload

from platform_under_test import ROOT, ROOT_URL, As, PlatformTest, from_now, later, root, running_task, slugid, unique, with_scopes

objects = root.object


def kwargs(name, data, content_type="text/plain"):
    return {
        "projectId": "official", "name": name, "contentType": content_type, "contentLength": len(data), "expires": from_now("1 hour"),
        "maxRetries": 0,
    }


class Objects(PlatformTest):
    def test_bytes_go_up_and_come_down(self):
        # The client sends up to 8 KiB inside a call, and more by PUT.
        for size in (0, 5, 8191, 8192, 8193, 3_000_000):
            with self.subTest(size):
                data, name = os.urandom(size), f"official/{unique('o')}/a b/../{size}"
                upload.uploadFromBuf(data=data, objectService=objects, **kwargs(name, data))
                got, content_type = download.downloadToBuf(name=name, objectService=objects, maxRetries=0)
                self.assertEqual((bytes(got), content_type), (data, "text/plain"))
                self.assertEqual(objects.object(name)["hashes"]["sha256"], hashlib.sha256(data).hexdigest())

    def test_files_go_up_and_come_down(self):
        data, name = os.urandom(100_000), "official/" + unique("o")
        upload.uploadFromFile(file=io.BytesIO(data), objectService=objects, **kwargs(name, data))
        file = io.BytesIO()
        download.downloadToFile(file=file, name=name, objectService=objects, maxRetries=0)
        self.assertEqual(file.getvalue(), data)
        self.assertEqual(requests.get(objects.buildSignedUrl("download", name)).content, data)
        self.assertTrue(objects.download(name)["url"])

    def test_what_is_wrong_is_refused(self):
        name = "official/" + unique("o")
        begun = {
            "projectId": "official", "uploadId": slugid(), "expires": later("1 hour"),
            "proposedUploadMethods": {"dataInline": {"contentType": "text/plain", "objectData": base64.b64encode(b"abc").decode()}},
        }
        objects.createUpload(name, begun)
        with self.fails(409, "RequestConflict"):
            objects.createUpload(name, {**begun, "uploadId": slugid()})
        with self.fails(404, "ResourceNotFound"):
            objects.startDownload(name, {"acceptDownloadMethods": {"getUrl": True}})
        with self.fails(400, "InputError"):
            objects.finishUpload(name, {"projectId": "official", "uploadId": begun["uploadId"], "hashes": {"sha256": "0" * 64}})
        poor = As(with_scopes("object:upload:other:*", "object:download:other/*")).object
        with self.needs(f"object:upload:official:{name}"):
            poor.createUpload(name, begun)
        with self.needs(f"object:download:{name}"):
            poor.object(name)


class Artifacts(PlatformTest):
    def test_an_artifact_that_is_an_object(self):
        running, data = running_task(), os.urandom(20_000)
        where = (running.task_id, 0, "public/o.bin")
        lent = running.queue.createArtifact(
            *where, {"storageType": "object", "contentType": "application/octet-stream", "expires": later("1 hour"), "contentLength": len(data)}
        )
        with self.fails(404, "ResourceNotFound"):
            root.queue.artifact(*where)
        upload.uploadFromBuf(
            data=data, objectService=As(lent["credentials"]).object,
            **{**kwargs(lent["name"], data, "application/octet-stream"), "projectId": lent["projectId"], "uploadId": lent["uploadId"], "expires": lent["expires"]},
        )
        with self.fails(400, "InputError"):
            running.queue.finishArtifact(*where, {"uploadId": slugid()})
        running.queue.finishArtifact(*where, {"uploadId": lent["uploadId"]})
        got, content_type = download.downloadArtifactToBuf(taskId=running.task_id, name=where[2], queueService=root.queue, maxRetries=0)
        self.assertEqual((bytes(got), content_type), (data, "application/octet-stream"))
        self.assertEqual(requests.get(root.queue.buildSignedUrl("getLatestArtifact", running.task_id, where[2])).content, data)
        self.assertEqual(root.queue.latestArtifactInfo(running.task_id, where[2])["storageType"], "object")
        self.assertEqual(root.queue.artifactInfo(*where)["storageType"], "object")


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_the_asynchronous_client(self):
        async with taskcluster.aio.createSession() as session:
            asynchronous = taskcluster.aio.Object({"rootUrl": ROOT_URL, "credentials": dict(ROOT), "maxRetries": 0}, session=session)
            data, name = os.urandom(10_000), "official/" + unique("o")
            await aio_upload.uploadFromBuf(data=data, objectService=asynchronous, **kwargs(name, data))
            got, _ = await aio_download.downloadToBuf(name=name, objectService=asynchronous, maxRetries=0)
            self.assertEqual(bytes(got), data)


if __name__ == "__main__":
    unittest.main()
