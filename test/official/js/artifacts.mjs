// How files go up and down.

import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import taskcluster from 'taskcluster-client';
import { fromNowJSON, root } from './platform.mjs';

const { queue } = root;

export const expires = fromNowJSON('1 hour');

// Uploads as a worker does.
export const upload = async ({ queue: own, taskId, runId }, name, content, contentType) => {
  const artifact = await own.createArtifact(taskId, runId, name, { storageType: 's3', contentType, expires });
  assert.equal(artifact.storageType, 's3');
  assert.equal(artifact.contentType, contentType);
  const put = await fetch(artifact.putUrl, { method: 'PUT', headers: { 'content-type': contentType }, body: content });
  assert.equal(put.status, 200, await put.text());
};

// Downloads as the client does it.
export const download = async (taskId, name, runId) => {
  const chunks = [];
  const contentType = await taskcluster.downloadArtifact({
    taskId, name, runId, queue, retries: 0,
    streamFactory: async () => new Writable({
      write(chunk, _, done) {
        chunks.push(chunk);
        done();
      },
    }),
  });
  return { content: Buffer.concat(chunks).toString(), contentType };
};
