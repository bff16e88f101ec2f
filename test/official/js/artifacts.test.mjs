// What a task leaves: bytes in S3, references, links and errors, and how they are found again.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { download, expires, upload } from './artifacts.mjs';
import { anonymous, as, claim, failure, fromNowJSON, needs, pages, root, rootUrl, runningTask, slugid, withScopes } from './platform.mjs';

const { queue } = root;

const redirect = async url => {
  const response = await fetch(url, { redirect: 'manual' });
  return { response, body: await response.json() };
};

describe('artifacts', { concurrency: true }, () => {
  test('a file is uploaded, listed and downloaded', async () => {
    const running = await runningTask();
    const { taskId } = running;
    await upload(running, 'public/build/out.txt', 'the content', 'text/plain');
    await running.queue.reportCompleted(taskId, 0);

    const { artifacts } = await queue.listArtifacts(taskId, 0);
    assert.deepEqual(artifacts, [{ storageType: 's3', name: 'public/build/out.txt', expires, contentType: 'text/plain' }]);
    assert.deepEqual(await queue.listLatestArtifacts(taskId), { artifacts });
    assert.deepEqual(await queue.artifactInfo(taskId, 0, 'public/build/out.txt'), artifacts[0]);
    assert.deepEqual(await queue.latestArtifactInfo(taskId, 'public/build/out.txt'), artifacts[0]);

    assert.deepEqual(await download(taskId, 'public/build/out.txt', 0), { content: 'the content', contentType: 'text/plain' });
    assert.deepEqual(await download(taskId, 'public/build/out.txt'), { content: 'the content', contentType: 'text/plain' });

    // The client does not follow what leads a browser to the bytes.
    assert.equal((await queue.getArtifact(taskId, 0, 'public/build/out.txt')).storageType, 's3');
    assert.equal((await queue.getLatestArtifact(taskId, 'public/build/out.txt')).storageType, 's3');

    // A browser follows a signed URL to the bytes.
    for (const url of [
      queue.buildSignedUrl(queue.getArtifact, taskId, 0, 'public/build/out.txt'),
      queue.buildSignedUrl(queue.getLatestArtifact, taskId, 'public/build/out.txt'),
    ]) {
      const { response, body } = await redirect(url);
      assert.equal(response.status, 303);
      assert.equal(response.headers.get('x-taskcluster-artifact-storage-type'), 's3');
      assert.deepEqual(body, { storageType: 's3', url: response.headers.get('location') });
      assert.equal(await (await fetch(url)).text(), 'the content');
    }
  });

  test('names have slashes, as they are and encoded', async () => {
    const running = await runningTask();
    await upload(running, 'public/a b/ü/c+d.txt', 'odd', 'text/plain');
    assert.equal((await download(running.taskId, 'public/a b/ü/c+d.txt')).content, 'odd');
    const signed = queue.buildSignedUrl(queue.getLatestArtifact, running.taskId, 'public/a b/ü/c+d.txt');
    assert.match(signed, /public%2Fa%20b/);
    await upload(running, 'public/plain/name.txt', 'plain', 'text/plain');
    const plain = await fetch(`${rootUrl}/api/queue/v1/task/${running.taskId}/artifacts/public/plain/name.txt`);
    assert.equal(await plain.text(), 'plain', 'and what is public needs no credentials');
  });

  test('what is private needs a scope', async () => {
    const running = await runningTask();
    await upload(running, 'private/key.txt', 'secret', 'text/plain');
    const reader = as(await withScopes(['queue:get-artifact:private/*']));
    assert.equal((await reader.queue.artifact(running.taskId, 0, 'private/key.txt')).storageType, 's3');
    const stranger = as(await withScopes(['queue:get-artifact:public/*']));
    const err = await failure(stranger.queue.artifact(running.taskId, 0, 'private/key.txt'), 403, 'InsufficientScopes');
    assert.match(err.message, /queue:get-artifact:private\/key\.txt/);
  });

  test('only its own worker adds artifacts to a run', async () => {
    const [one, two] = [await runningTask(), await runningTask()];
    const artifact = { storageType: 's3', contentType: 'text/plain', expires };
    await failure(one.queue.createArtifact(two.taskId, 0, 'public/x', artifact), 403, 'InsufficientScopes');
    await failure(one.queue.createArtifact(one.taskId, 1, 'public/x', artifact), 403, 'InsufficientScopes');
    await failure(one.queue.createArtifact(one.taskId, 0, 'public/x', { ...artifact, expires: fromNowJSON('- 1 hour') }), 400, 'InputError');
    await failure(one.queue.createArtifact(one.taskId, 0, 'public/x', { ...artifact, expires: fromNowJSON('3 years') }), 400, 'InputError');
    await failure(one.queue.createArtifact(one.taskId, 0, 'public/x', { ...artifact, storageType: 'tape' }), 400, 'InputValidationError');
  });

  test('an artifact may be created again, with another content type not', async () => {
    const running = await runningTask();
    const create = more => running.queue.createArtifact(running.taskId, 0, 'public/again', {
      storageType: 's3', contentType: 'text/plain', expires, ...more,
    });
    await create();
    await create();
    await failure(create({ contentType: 'text/html' }), 409, 'RequestConflict');
  });

  test('a reference leads elsewhere', async () => {
    const { taskId, queue: own } = await runningTask();
    const url = 'https://example.com/elsewhere';
    const created = await own.createArtifact(taskId, 0, 'public/ref', { storageType: 'reference', contentType: 'text/html', expires, url });
    assert.deepEqual(created, { storageType: 'reference' });
    assert.deepEqual(await queue.artifact(taskId, 0, 'public/ref'), { storageType: 'reference', url });
    const { response, body } = await redirect(queue.buildSignedUrl(queue.getArtifact, taskId, 0, 'public/ref'));
    assert.deepEqual([response.status, response.headers.get('location')], [303, url]);
    assert.deepEqual(body, { storageType: 'reference', url });
  });

  test('a link is followed by the server, and takes scopes for both names', async () => {
    const running = await runningTask();
    const { taskId, queue: own } = running;
    await upload(running, 'public/real.txt', 'real', 'text/plain');
    const link = (name, artifact) => own.createArtifact(taskId, 0, name, { storageType: 'link', contentType: 'text/plain', expires, artifact });
    assert.deepEqual(await link('public/link.txt', 'public/real.txt'), { storageType: 'link' });
    assert.equal((await queue.artifactInfo(taskId, 0, 'public/link.txt')).storageType, 'link');
    assert.equal((await download(taskId, 'public/link.txt')).content, 'real');

    await upload(running, 'private/real.txt', 'secret', 'text/plain');
    await link('public/peep.txt', 'private/real.txt');
    const stranger = as(await withScopes(['queue:get-artifact:public/*']));
    await failure(stranger.queue.artifact(taskId, 0, 'public/peep.txt'), 403, 'InsufficientScopes');

    await link('public/round', 'public/about');
    await link('public/about', 'public/round');
    await failure(queue.artifact(taskId, 0, 'public/round'), 400, 'InputError');
    await link('public/dangling', 'public/nothing');
    await failure(queue.artifact(taskId, 0, 'public/dangling'), 404, 'ResourceNotFound');
  });

  test('a live log is a reference first and a link in the end', async () => {
    const running = await runningTask();
    const { taskId, queue: own } = running;
    const live = { contentType: 'text/plain; charset=utf-8', expires };
    await own.createArtifact(taskId, 0, 'public/logs/live.log', { ...live, storageType: 'reference', url: 'https://example.com/live' });
    await upload(running, 'public/logs/live_backing.log', 'the log', 'text/plain; charset=utf-8');
    await own.createArtifact(taskId, 0, 'public/logs/live.log', { ...live, storageType: 'link', artifact: 'public/logs/live_backing.log' });
    assert.equal((await download(taskId, 'public/logs/live.log')).content, 'the log');
  });

  test('an error artifact tells why there is none', async () => {
    const { taskId, queue: own } = await runningTask();
    const error = { reason: 'file-missing-on-worker', message: 'there was no such file' };
    assert.deepEqual(await own.createArtifact(taskId, 0, 'public/error', { storageType: 'error', expires, ...error }), { storageType: 'error' });
    assert.deepEqual(await queue.artifact(taskId, 0, 'public/error'), { storageType: 'error', ...error });
    const { response, body } = await redirect(queue.buildSignedUrl(queue.getArtifact, taskId, 0, 'public/error'));
    assert.equal(response.status, 424);
    assert.deepEqual(body, error);
    await assert.rejects(download(taskId, 'public/error'), { message: error.message, reason: error.reason });
  });

  test('what is not there is not found', async () => {
    const { taskId } = await runningTask();
    for (const method of ['artifact', 'artifactInfo', 'getArtifact']) {
      await failure(queue[method](taskId, 0, 'public/nothing'), 404, 'ResourceNotFound');
      await failure(queue[method](slugid(), 0, 'public/nothing'), 404, 'ResourceNotFound');
    }
    for (const method of ['latestArtifact', 'latestArtifactInfo', 'getLatestArtifact']) {
      await failure(queue[method](taskId, 'public/nothing'), 404, 'ResourceNotFound');
      await failure(queue[method](slugid(), 'public/nothing'), 404, 'ResourceNotFound');
    }
    await failure(queue.listArtifacts(slugid(), 0), 404, 'ResourceNotFound');
    await failure(queue.listLatestArtifacts(slugid()), 404, 'ResourceNotFound');
    await needs('queue:get-artifact:private/nothing', anonymous.queue.getLatestArtifact(taskId, 'private/nothing'));
    await needs('queue:get-artifact:private/nothing', anonymous.queue.getArtifact(taskId, 0, 'private/nothing'));
  });

  test('artifacts are listed by page, run by run', async () => {
    const { taskId, queue: own, taskQueueId } = await runningTask();
    const reference = { storageType: 'reference', contentType: 'text/html', expires, url: 'https://example.com/' };
    const names = ['public/a', 'public/b', 'public/C', 'public/d/e', 'public/d/f'];
    for (const name of names) {
      await own.createArtifact(taskId, 0, name, reference);
    }
    const [artifacts, count] = await pages(query => queue.listArtifacts(taskId, 0, query), 'artifacts', 2);
    assert.deepEqual(artifacts.map(one => one.name).sort(), names.sort());
    assert(count >= 3);

    await own.reportException(taskId, 0, { reason: 'worker-shutdown' });
    assert.deepEqual((await queue.listLatestArtifacts(taskId)).artifacts, []);
    const [second] = await claim(taskQueueId);
    await second.queue.createArtifact(taskId, 1, 'public/a', { ...reference, url: 'https://example.com/second' });
    assert.equal((await queue.latestArtifact(taskId, 'public/a')).url, 'https://example.com/second');
    assert.equal((await queue.artifact(taskId, 0, 'public/a')).url, 'https://example.com/');
    await failure(queue.latestArtifact(taskId, 'public/b'), 404, 'ResourceNotFound');
    await failure(queue.listArtifacts(taskId, 2), 404, 'ResourceNotFound');
  });

  test('a file put under one name is refused under another', async () => {
    const running = await runningTask();
    const { putUrl } = await running.queue.createArtifact(running.taskId, 0, 'public/signed', { storageType: 's3', contentType: 'text/plain', expires });
    const elsewhere = putUrl.replace('signed?', 'other?');
    assert.notEqual(elsewhere, putUrl);
    const wrong = await fetch(elsewhere, { method: 'PUT', headers: { 'content-type': 'text/plain' }, body: 'x' });
    assert.equal(wrong.status, 403);
    await wrong.text();
  });
});
