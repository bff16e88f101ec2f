// Tasks are found by the paths that their routes name, and by those that somebody puts them at.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { as, createTask, failure, found, fromNowJSON, needs, pages, root, runningTask, slugid, taskQueue, unique, until, withScopes } from './platform.mjs';

const { index } = root;
const expires = fromNowJSON('1 hour');
const namespace = () => `official.${unique('n')}`;

const insert = async (path, more) => {
  const taskId = more?.taskId ?? await createTask(taskQueue());
  return index.insertTask(path, { taskId, rank: 0, data: {}, expires, ...more });
};

describe('the index', { concurrency: true }, () => {
  test('a task that has completed is found by its routes', async () => {
    const path = namespace();
    const { taskId, queue: own } = await runningTask({
      routes: [`index.${path}.latest`, `index.${path}.revision.abc`], extra: { index: { rank: 7, data: { hello: 'world' }, expires } },
    });
    await failure(index.findTask(`${path}.latest`), 404, 'ResourceNotFound');
    await own.reportCompleted(taskId, 0);
    for (const name of ['latest', 'revision.abc']) {
      const entry = await until('the task is indexed', () => found(index.findTask(`${path}.${name}`)));
      assert.deepEqual(entry, { namespace: `${path}.${name}`, taskId, rank: 7, data: { hello: 'world' }, expires });
    }
    const { namespaces } = await index.listNamespaces(path);
    assert.deepEqual(namespaces.map(one => [one.namespace, one.name]), [[`${path}.revision`, 'revision']]);
    const { tasks } = await index.listTasks(path);
    assert.deepEqual(tasks.map(one => [one.namespace, one.taskId]), [[`${path}.latest`, taskId]]);
  });

  test('a task that has failed is not indexed', async () => {
    const path = namespace();
    const failed = await runningTask({ routes: [`index.${path}`] });
    const after = await runningTask({ routes: [`index.${path}-after`] });
    await failed.queue.reportFailed(failed.taskId, 0);
    await after.queue.reportCompleted(after.taskId, 0);
    await until('the second task is indexed', () => found(index.findTask(`${path}-after`)));
    await failure(index.findTask(path), 404, 'ResourceNotFound');
  });

  test('the higher rank stays, the same rank gives way', async () => {
    const path = namespace();
    const first = await insert(path, { rank: 2 });
    assert.equal(first.namespace, path);
    assert.equal((await index.findTask(path)).taskId, first.taskId);
    await insert(path, { rank: 1 });
    assert.equal((await index.findTask(path)).taskId, first.taskId);
    const last = await insert(path, { rank: 2, data: { last: true } });
    assert.deepEqual(await index.findTask(path), last);
    await index.deleteTask(path);
    await failure(index.findTask(path), 404, 'ResourceNotFound');
    await index.deleteTask(path);
  });

  test('namespaces and tasks are listed by page', async () => {
    const path = namespace();
    const names = ['a', 'b', 'c', 'd', 'e'];
    for (const name of names) {
      await insert(`${path}.${name}`);
      await insert(`${path}.${name}.below`);
    }
    const [tasks, count] = await pages(query => index.listTasks(path, query), 'tasks', 2);
    assert.deepEqual(tasks.map(one => one.namespace), names.map(name => `${path}.${name}`));
    assert.equal(count, 3);
    const [namespaces] = await pages(query => index.listNamespaces(path, query), 'namespaces', 2);
    assert.deepEqual(namespaces.map(one => one.name), names);
    assert((await index.listNamespaces('')).namespaces.some(one => one.name === 'official'));
    assert((await index.listTasks('')).tasks.every(one => !one.namespace.includes('.')));

    const at = [...names.map(name => `${path}.${name}.below`), `${path}.nothing`];
    const [several] = await pages(query => index.findTasksAtIndex({ indexes: at }, query), 'tasks', 2);
    assert.deepEqual(several.map(one => one.namespace).sort(), at.slice(0, 5));
  });

  test('an artifact is found by the path of its task', async () => {
    const path = namespace();
    const { taskId, queue: own } = await runningTask({ routes: [`index.${path}`] });
    const url = 'https://example.com/official';
    for (const name of ['public/a b/ref', 'private/ref']) {
      await own.createArtifact(taskId, 0, name, { storageType: 'reference', contentType: 'text/html', expires, url });
    }
    await own.reportCompleted(taskId, 0);
    await until('the task is indexed', () => found(index.findTask(path)));
    const location = async url => {
      const response = await fetch(url, { redirect: 'manual' });
      assert.equal(response.status, 303, url);
      return response.headers.get('location');
    };
    for (const name of ['public/a b/ref', 'private/ref']) {
      const signed = index.buildSignedUrl(index.findArtifactFromTask, path, name);
      assert.equal(await location(await location(signed)), url, name);
      assert.equal(typeof (await index.findArtifactFromTask(path, name)).url, 'string');
    }
    const reader = as(await withScopes(['queue:get-artifact:private/*']));
    assert.equal(await location((await reader.index.findArtifactFromTask(path, 'private/ref')).url), url);
    const stranger = as(await withScopes(['queue:get-artifact:public/*']));
    await failure(stranger.index.findArtifactFromTask(path, 'private/ref'), 403, 'InsufficientScopes');
    await failure(index.findArtifactFromTask(`${path}.other`, 'public/ref'), 404, 'ResourceNotFound');
  });

  test('what is wrong is refused', async () => {
    const path = namespace();
    const entry = { taskId: slugid(), rank: 0, data: {}, expires };
    await failure(index.insertTask(path, { ...entry, rank: 'high' }), 400, 'InputValidationError');
    await failure(index.insertTask('two..dots', entry), 400, 'InvalidRequestArguments');
    await failure(index.findTask('two..dots'), 400, 'InvalidRequestArguments');
    await failure(index.listTasks(path, { continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
    await failure(index.findTasksAtIndex({ indexes: path }), 400, 'InputValidationError');
    await failure(index.listNamespaces(path, { limit: 0 }), 400, 'InvalidRequestArguments');
  });

  test('every method takes its scope', async () => {
    const path = namespace();
    const { taskId } = await insert(path);
    const poor = as(await withScopes(['official:nothing'])).index;
    await needs(`index:insert-task:${path}`, poor.insertTask(path, { taskId, rank: 0, data: {}, expires }));
    await needs(`index:delete-task:${path}`, poor.deleteTask(path));
    const enough = as(await withScopes([`index:insert-task:${path}`, `index:delete-task:${path}`])).index;
    await enough.insertTask(path, { taskId, rank: 0, data: {}, expires });
    await enough.deleteTask(path);
  });
});
