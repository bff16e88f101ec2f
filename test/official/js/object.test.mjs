// Objects: the client's own upload and download, what lies below them, and artifacts that are objects.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { Readable, Writable } from 'node:stream';
import { describe, test } from 'node:test';
import taskcluster from 'taskcluster-client';
import { as, failure, fromNow, fromNowJSON, needs, root, runningTask, slugid, unique, withScopes } from './platform.mjs';

const { object, queue } = root;
const projectId = 'official';
const sha256 = data => createHash('sha256').update(data).digest('hex');

const upload = (name, data, more) => taskcluster.upload({
  projectId, name, contentType: 'application/octet-stream', contentLength: data.length, expires: fromNow('1 hour'), object, retries: 0,
  streamFactory: async () => Readable.from(data.length ? [data] : []), ...more,
});

// Gathers what a download writes.
const gathered = async download => {
  const chunks = [];
  const contentType = await download(async () => new Writable({
    write(chunk, _, done) {
      chunks.push(chunk);
      done();
    },
  }));
  return { data: Buffer.concat(chunks), contentType };
};

const download = name => gathered(streamFactory => taskcluster.download({ name, object, retries: 0, streamFactory }));

const request = (data, more) => ({
  projectId, uploadId: slugid(), expires: fromNowJSON('1 hour'),
  proposedUploadMethods: { dataInline: { contentType: 'text/plain', objectData: Buffer.from(data).toString('base64') } }, ...more,
});

describe('objects', { concurrency: true }, () => {
  // The client sends up to 8 KiB inside a call, and more by PUT.
  for (const size of [0, 5, 8191, 8192, 8193, 3_000_000]) {
    test(`${size} bytes go up and come down`, async () => {
      const name = `official/${unique('o')}/u x/../${size}`;
      const data = randomBytes(size);
      await upload(name, data);
      assert.deepEqual(await download(name), { data, contentType: 'application/octet-stream' });
      assert.equal((await object.object(name)).hashes.sha256, sha256(data));
    });
  }

  test('an upload that is begun is not there before it is finished', async () => {
    const name = `official/${unique('o')}`;
    const begun = request('the content');
    const created = await object.createUpload(name, begun);
    assert.deepEqual(created, { projectId, uploadId: begun.uploadId, expires: begun.expires, uploadMethod: { dataInline: true } });
    await failure(object.object(name), 404, 'ResourceNotFound');
    await failure(object.createUpload(name, { ...begun, uploadId: slugid() }), 409, 'RequestConflict');
    const finish = { projectId, uploadId: begun.uploadId, hashes: { sha256: sha256('the content') } };
    await failure(object.finishUpload(name, { ...finish, uploadId: slugid() }), 409, 'RequestConflict');
    await object.finishUpload(name, finish);
    await object.finishUpload(name, finish);
    assert.deepEqual(await object.object(name), { projectId, expires: begun.expires, hashes: finish.hashes });
    await failure(object.createUpload(name, request('another content')), 409, 'RequestConflict');
  });

  test('a URL to put to says which headers it wants', async () => {
    const name = `official/${unique('o')}`;
    const { uploadMethod: { dataInline: _, putUrl }, uploadId } = await object.createUpload(name, request('', {
      proposedUploadMethods: { putUrl: { contentType: 'text/plain', contentLength: 3 } },
    }));
    await failure(object.finishUpload(name, { projectId, uploadId }), 409, 'RequestConflict');
    const response = await fetch(putUrl.url, { method: 'PUT', headers: putUrl.headers, body: 'abc' });
    assert.equal(response.status, 200, await response.text());
    await object.finishUpload(name, { projectId, uploadId, hashes: { sha256: sha256('abc') } });
    assert.deepEqual(await download(name), { data: Buffer.from('abc'), contentType: 'text/plain' });
  });

  test('a download is negotiated', async () => {
    const name = `official/${unique('o')}`;
    await upload(name, Buffer.from('abc'));
    const start = methods => object.startDownload(name, { acceptDownloadMethods: methods });
    const byUrl = await start({ getUrl: true, simple: true });
    assert.equal(byUrl.method, 'getUrl');
    assert.equal(await (await fetch(byUrl.url)).text(), 'abc');
    const simple = await start({ simple: true });
    assert.deepEqual(Object.keys(simple).sort(), ['method', 'url']);
    assert.equal(await (await fetch(simple.url)).text(), 'abc');
    await assert.rejects(start({}), { statusCode: 406, code: 'NoMatchingMethod' });
    const signed = object.buildSignedUrl(object.download, name);
    assert.equal(await (await fetch(signed)).text(), 'abc');
    await object.download(name);
  });

  test('hashes that are not those of the bytes are refused', async () => {
    const name = `official/${unique('o')}`;
    const begun = request('the content');
    await object.createUpload(name, begun);
    await failure(object.finishUpload(name, { projectId, uploadId: begun.uploadId, hashes: { sha256: sha256('another') } }), 400, 'InputError');
    await failure(object.createUpload(name, request('x', { expires: 'tomorrow' })), 400, 'InputValidationError');
    await failure(object.createUpload(`official/${unique('o')}`, request('x', { expires: fromNowJSON('- 1 hour') })), 400, 'InputError');
  });

  test('what was never uploaded is not found', async () => {
    const name = `official/${unique('none')}`;
    await failure(object.object(name), 404, 'ResourceNotFound');
    await failure(object.download(name), 404, 'ResourceNotFound');
    await failure(object.startDownload(name, { acceptDownloadMethods: { simple: true } }), 404, 'ResourceNotFound');
    await failure(object.finishUpload(name, { projectId, uploadId: slugid() }), 404, 'ResourceNotFound');
  });

  test('every method takes its scope', async () => {
    const name = `official/${unique('o')}`;
    await upload(name, Buffer.from('abc'));
    const { object: poor } = as(await withScopes(['object:upload:other:*', 'object:download:other/*']));
    await needs(`object:upload:official:${name}`, poor.createUpload(name, request('x')));
    await needs(`object:upload:official:${name}`, poor.finishUpload(name, { projectId, uploadId: slugid() }));
    await needs(`object:download:${name}`, poor.startDownload(name, { acceptDownloadMethods: { simple: true } }));
    await needs(`object:download:${name}`, poor.object(name));
    await needs(`object:download:${name}`, poor.download(name));
    const mine = as(await withScopes([`object:upload:official:${name}*`, `object:download:${name}*`])).object;
    await upload(`${name}/mine`, Buffer.from('def'), { object: mine });
    assert.deepEqual((await gathered(streamFactory => taskcluster.download({ name: `${name}/mine`, object: mine, streamFactory }))).data, Buffer.from('def'));
  });
});

describe('artifacts that are objects', { concurrency: true }, () => {
  // Uploads as workers of today do: the queue lends them the right to.
  const uploadArtifact = async ({ queue: own, taskId }, name, data, expires = fromNowJSON('1 hour')) => {
    const { storageType, name: objectName, projectId, uploadId, credentials, expires: until } = await own.createArtifact(taskId, 0, name, {
      storageType: 'object', contentType: 'text/plain', expires,
    });
    assert.equal(storageType, 'object');
    await upload(objectName, Buffer.from(data), {
      projectId, uploadId, expires: new Date(until), contentType: 'text/plain', object: as(credentials).object,
    });
    await own.finishArtifact(taskId, 0, name, { uploadId });
    return { objectName, uploadId, credentials };
  };

  const downloadArtifact = (taskId, name, by = queue) => gathered(streamFactory => taskcluster.downloadArtifact({
    taskId, name, queue: by, retries: 0, streamFactory,
  }));

  test('one is uploaded, finished and downloaded', async () => {
    const running = await runningTask();
    const { taskId, queue: own } = running;
    const { objectName, credentials } = await uploadArtifact(running, 'public/o.txt', 'the content');
    assert.deepEqual(await downloadArtifact(taskId, 'public/o.txt'), { data: Buffer.from('the content'), contentType: 'text/plain' });
    assert.equal((await queue.artifactInfo(taskId, 0, 'public/o.txt')).storageType, 'object');
    const content = await queue.artifact(taskId, 0, 'public/o.txt');
    assert.deepEqual([content.storageType, content.name], ['object', objectName]);
    const signed = queue.buildSignedUrl(queue.getLatestArtifact, taskId, 'public/o.txt');
    assert.equal(await (await fetch(signed)).text(), 'the content', 'a browser finds it as well');
    assert.equal(await (await fetch(queue.buildUrl(queue.getArtifact, taskId, 0, 'public/o.txt'))).text(), 'the content');

    // What is lent reaches no further.
    await failure(as(credentials).object.createUpload('official/elsewhere', request('x')), 403, 'InsufficientScopes');
    await failure(as(content.credentials).object.object('official/elsewhere'), 403, 'InsufficientScopes');
    await own.reportCompleted(taskId, 0);
    assert.deepEqual((await queue.listLatestArtifacts(taskId)).artifacts.map(one => one.name), ['public/o.txt']);
  });

  test('one that is not finished is no artifact yet', async () => {
    const { taskId, queue: own } = await runningTask();
    const { uploadId } = await own.createArtifact(taskId, 0, 'public/o.txt', { storageType: 'object', contentType: 'text/plain', expires: fromNowJSON('1 hour') });
    await failure(queue.artifact(taskId, 0, 'public/o.txt'), 404, 'ResourceNotFound');
    await failure(own.finishArtifact(taskId, 0, 'public/o.txt', { uploadId: slugid() }), 400, 'InputError');
    await failure(own.finishArtifact(taskId, 0, 'public/other.txt', { uploadId }), 404, 'ResourceNotFound');
    const other = await runningTask();
    await failure(other.queue.finishArtifact(taskId, 0, 'public/o.txt', { uploadId }), 403, 'InsufficientScopes');
  });
});
