// Copies of artifacts near whoever reads them: the platform believes that this machine is in another region than the artifacts,
// and clients that know nothing of it get what they would get without.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { download, upload } from './artifacts.mjs';
import { as, root, rootUrl, runningTask, withScopes } from './platform.mjs';

const { queue } = root;

// Where a redirect leads to.
const location = async (url, headers = {}) => {
  const response = await fetch(url, { redirect: 'manual', headers });
  return { status: response.status, where: response.headers.get('location'), body: await response.json() };
};

describe('copies', { concurrency: true }, () => {
  test('a client downloads the copy', async () => {
    const running = await runningTask();
    const { taskId } = running;
    await upload(running, 'public/build/a b+ü.txt', 'the content', 'text/x-copied');
    assert.doesNotMatch((await queue.artifact(taskId, 0, 'public/build/a b+ü.txt')).url, /mirror-away/, 'the run may write it again');
    await running.queue.reportCompleted(taskId, 0);

    assert.match((await queue.artifact(taskId, 0, 'public/build/a b+ü.txt')).url, /\/mirror-away\//);
    assert.match((await queue.latestArtifact(taskId, 'public/build/a b+ü.txt')).url, /\/mirror-away\//);
    assert.deepEqual(await download(taskId, 'public/build/a b+ü.txt'), { content: 'the content', contentType: 'text/x-copied' });
    assert.deepEqual(await download(taskId, 'public/build/a b+ü.txt', 0), { content: 'the content', contentType: 'text/x-copied' });
  });

  test('a private artifact has a copy for who may read it', async () => {
    const running = await runningTask();
    const { taskId } = running;
    await upload(running, 'private/key.txt', 'secret', 'text/plain');
    await running.queue.reportCompleted(taskId, 0);
    const reader = as(await withScopes(['queue:get-artifact:private/*']));
    const { url } = await reader.queue.artifact(taskId, 0, 'private/key.txt');
    assert.match(url, /\/mirror-away\//);
    assert.equal(await (await fetch(url)).text(), 'secret');
    assert.equal((await fetch(url.split('?')[0])).status, 403, 'the signature is what entitles');
  });

  test('a client that wants no copy says so', async () => {
    const running = await runningTask();
    await upload(running, 'public/x', 'x', 'text/plain');
    await running.queue.reportCompleted(running.taskId, 0);
    const url = `${rootUrl}/api/queue/v1/task/${running.taskId}/runs/0/artifacts/public/x`;
    for (const [value, copied] of [['true', false], ['1', false], ['false', true]]) {
      const { status, where } = await location(url, { 'x-taskcluster-skip-cache': value });
      assert.equal(status, 303);
      assert.equal(/\/mirror-away\//.test(where), copied, value);
    }
  });

  test('clients of the mirror of 2016 are redirected', async () => {
    const running = await runningTask();
    await upload(running, 'public/old', 'as in 2016', 'text/plain');
    await running.queue.reportCompleted(running.taskId, 0);
    const { where } = await location(`${rootUrl}/api/queue/v1/task/${running.taskId}/artifacts/public/old`, { 'x-taskcluster-skip-cache': '1' });
    const original = where.split('?')[0];
    const { status, where: copy, body } = await location(`${rootUrl}/v1/redirect/s3/away/${encodeURIComponent(original)}`);
    assert.equal(status, 302);
    assert.deepEqual(body, { status: 'present', url: copy });
    assert.match(copy, /\/mirror-away\//);
    assert.equal(await (await fetch(copy)).text(), 'as in 2016');

    const wrong = await location(`${rootUrl}/v1/redirect/s3/away/${original}`);
    assert.equal(wrong.status, 400);
    assert.match(wrong.body.message, /URL Must be URL Encoded!/);
    assert.equal((await fetch(`${rootUrl}/v1/purge/s3/away/${encodeURIComponent(original)}`, { method: 'DELETE' })).status, 403);
    assert.equal((await (await fetch(`${rootUrl}/v1/ping`)).json()).alive, true);
    assert.equal((await (await fetch(`${rootUrl}/v1/api-reference`)).json()).serviceName, 'mirror');
  });
});
