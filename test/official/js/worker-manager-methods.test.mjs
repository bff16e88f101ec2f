// Every method of the worker-manager is called, along the life of a worker that the suite itself plays: one
// of the static provider, which somebody makes known and nobody starts.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { anonymous, as, createTask, failure, fromNowJSON, needs, newer, pages, root, slugid, unique, withScopes } from './platform.mjs';

const newerAs = await newer('worker-manager'); // the installed client does not know shouldWorkerTerminate

const secret = () => slugid() + slugid();

test('every method works', async () => {
  const { workerManager } = root;
  const [provisionerId, workerType] = ['official', unique('p').toLowerCase().slice(0, 37) + '0'];
  const workerPoolId = `${provisionerId}/${workerType}`;
  const definition = {
    providerId: 'static',
    description: 'made by the official-client suite',
    owner: 'nobody@example.com',
    emailOnError: false,
    config: { lifecycle: { reregistrationTimeout: 3600 }, workerConfig: { color: 'green' } },
  };
  const workerGroup = 'shelf';
  const workerId = 'machine-1';
  const who = [workerPoolId, workerGroup, workerId];

  assert.equal((await workerManager.ping()).alive, true);
  await workerManager.lbheartbeat();
  await workerManager.heartbeat();
  await workerManager.version();
  const { providers } = await workerManager.listProviders();
  assert(providers.some(one => one.providerId === 'static' && one.providerType === 'static'));

  // The pool.
  await workerManager.createWorkerPool(workerPoolId, definition);
  await workerManager.updateWorkerPool(workerPoolId, { ...definition, description: 'changed' });
  assert.equal((await workerManager.workerPool(workerPoolId)).description, 'changed');
  const [pools] = await pages(query => workerManager.listWorkerPools(query), 'workerPools', 100);
  assert(pools.some(one => one.workerPoolId === workerPoolId));
  const { workerPoolLaunchConfigs } = await workerManager.listWorkerPoolLaunchConfigs(workerPoolId, { includeArchived: true });
  assert.equal(workerPoolLaunchConfigs.length, 1);
  assert.equal(workerPoolLaunchConfigs[0].isArchived, false);
  const { launchConfigId } = workerPoolLaunchConfigs[0];

  // The worker is made known.
  const staticSecret = secret();
  const worker = { expires: fromNowJSON('1 day'), capacity: 2, providerInfo: { staticSecret } };
  const created = await workerManager.createWorker(...who, worker);
  assert.equal(created.state, 'running');
  assert.equal(created.capacity, 2);
  await workerManager.createWorker(...who, worker);
  await failure(workerManager.createWorker(...who, { ...worker, providerInfo: { staticSecret: secret() } }), 409, 'RequestConflict');
  assert.equal((await workerManager.updateWorker(...who, { ...worker, capacity: 3 })).capacity, 3);
  assert.equal((await workerManager.worker(...who)).capacity, 3);
  for (const { workers } of [
    await workerManager.listWorkersForWorkerPool(workerPoolId, { state: 'running', launchConfigId }),
    await workerManager.listWorkersForWorkerGroup(workerPoolId, workerGroup),
  ]) {
    assert.deepEqual(workers.map(one => one.workerId), [workerId]);
  }
  const { launchConfigStats } = await workerManager.workerPoolStats(workerPoolId);
  assert.equal(launchConfigStats[0].runningCapacity, 3);
  const [stats] = await pages(query => workerManager.listWorkerPoolsStats(query), 'workerPoolsStats', 100);
  assert.equal(stats.find(one => one.workerPoolId === workerPoolId).runningCount, 1);

  // It registers, with its secret and with no other, and works.
  const proof = more => ({ workerPoolId, providerId: 'static', workerGroup, workerId, workerIdentityProof: { staticSecret: more } });
  await failure(anonymous.workerManager.registerWorker(proof(secret())), 400, 'InputError');
  const registered = await anonymous.workerManager.registerWorker(proof(staticSecret));
  assert.deepEqual(registered.workerConfig, { color: 'green' });
  const first = as(registered.credentials);
  const renewed = await first.workerManager.reregisterWorker({ workerPoolId, workerGroup, workerId, secret: registered.secret });
  assert.notEqual(renewed.secret, registered.secret);
  const me = as(renewed.credentials);
  const asks = newerAs(renewed.credentials).workerManager;
  assert.equal((await asks.shouldWorkerTerminate(...who)).terminate, false);
  const theirs = { secret: { color: 'green' }, expires: fromNowJSON('1 hour') };
  await root.secrets.set(`worker-pool:${workerPoolId}`, theirs);
  assert.deepEqual(await me.secrets.get(`worker-pool:${workerPoolId}`), theirs, 'the secret of a pool is for its workers');
  const reported = await me.workerManager.reportWorkerError(workerPoolId, {
    workerGroup, workerId, kind: 'disk-full', title: 'The disk is full', description: 'No room is left.', extra: { free: 0 },
  });
  const taskId = await createTask(workerPoolId);
  const { tasks } = await me.queue.claimWork(workerPoolId, { workerGroup, workerId, tasks: 1 });
  assert.equal(tasks[0].status.taskId, taskId);

  // What is known of it, and of what went wrong.
  const { workerPoolErrors } = await workerManager.listWorkerPoolErrors(workerPoolId, { errorId: reported.errorId });
  assert.equal(workerPoolErrors[0].title, 'The disk is full');
  const { totals } = await workerManager.workerPoolErrorStats({ workerPoolId });
  assert.equal(totals.total, 1);
  assert.equal(totals.code['disk-full'], 1);
  const joined = await workerManager.getWorker(provisionerId, workerType, workerGroup, workerId);
  assert.equal(joined.state, 'running');
  assert.equal(joined.providerId, 'static');
  assert.equal(joined.recentTasks.at(-1).taskId, taskId);
  const busy = await workerManager.listWorkers(provisionerId, workerType, { workerState: 'running', quarantined: false });
  assert.deepEqual(busy.workers.map(one => one.latestTask.taskId), [taskId]);
  assert.deepEqual((await workerManager.listWorkers(provisionerId, workerType, { workerState: 'standalone' })).workers, []);

  // It goes, and the pool with it.
  await workerManager.removeWorker(...who);
  assert.match((await asks.shouldWorkerTerminate(...who)).reason, /removed/);
  assert.equal((await workerManager.deleteWorkerPool(workerPoolId)).providerId, 'null-provider');
  const { auditHistory } = await root.auth.getEntityHistory('worker-pool', workerPoolId);
  assert.deepEqual(auditHistory.map(one => one.actionType), ['created', 'updated', 'deleted']);
});

test('workers get no more than whoever defines their pool has', async () => {
  const workerPoolId = `official/${unique('p').toLowerCase().slice(0, 37)}0`;
  const definition = {
    providerId: 'static', description: '', owner: 'nobody@example.com', emailOnError: false,
    config: { scopes: ['official:suite:*'], secrets: ['official/suite'] },
  };
  const manage = [`worker-manager:manage-worker-pool:${workerPoolId}`, 'worker-manager:provider:static'];
  const half = as(await withScopes(manage));
  const err = await failure(half.workerManager.createWorkerPool(workerPoolId, definition), 403, 'InsufficientScopes');
  assert.match(err.message, /official:suite:\*[^]*secrets:get:official\/suite/);
  const whole = as(await withScopes([...manage, 'official:suite:*', 'secrets:get:*']));
  await whole.workerManager.createWorkerPool(workerPoolId, definition);

  const staticSecret = secret();
  await root.workerManager.createWorker(workerPoolId, 'shelf', 'm', { expires: fromNowJSON('1 hour'), providerInfo: { staticSecret } });
  const { credentials } = await anonymous.workerManager.registerWorker({
    workerPoolId, providerId: 'static', workerGroup: 'shelf', workerId: 'm', workerIdentityProof: { staticSecret },
  });
  const { scopes } = await as(credentials).auth.currentScopes();
  assert(scopes.includes('official:suite:*') && scopes.includes('secrets:get:official/suite'), scopes.join('\n'));
});

test('every method takes its scope', async () => {
  const [provisionerId, workerType] = ['official', unique('p').toLowerCase().slice(0, 37) + '0'];
  const workerPoolId = `${provisionerId}/${workerType}`;
  const who = [workerPoolId, 'shelf', 'machine-1'];
  const definition = { providerId: 'static', description: '', owner: 'nobody@example.com', emailOnError: false, config: {} };
  const worker = { expires: fromNowJSON('1 day'), providerInfo: { staticSecret: secret() } };
  const report = { workerGroup: 'shelf', workerId: 'machine-1', kind: 'disk-full', title: 'The disk is full', description: '', extra: {} };
  const credentials = await withScopes(['official:nothing']);
  const poor = as(credentials).workerManager;
  const manage = `worker-manager:manage-worker-pool:${workerPoolId}`;
  await needs(manage, poor.createWorkerPool(workerPoolId, definition));
  await root.workerManager.createWorkerPool(workerPoolId, definition);
  await needs(manage, poor.updateWorkerPool(workerPoolId, definition));
  await needs(manage, poor.deleteWorkerPool(workerPoolId));
  await needs('worker-manager:list-worker-pools', poor.listWorkerPools());
  await needs('worker-manager:list-worker-pools', poor.listWorkerPoolsStats());
  await needs(`worker-manager:get-worker-pool:${workerPoolId}`, poor.workerPool(workerPoolId));
  await needs(`worker-manager:create-worker:${who.join('/')}`, poor.createWorker(...who, worker));
  await needs(`worker-manager:update-worker:${who.join('/')}`, poor.updateWorker(...who, worker));
  await needs(`worker-manager:remove-worker:${who.join('/')}`, poor.removeWorker(...who));
  await needs('assume:worker-id:shelf/machine-1', poor.reportWorkerError(workerPoolId, report));
  await needs('worker-manager:reregister-worker:', poor.reregisterWorker({ workerPoolId, workerGroup: 'shelf', workerId: 'machine-1', secret: secret() }));
  await needs('worker-manager:should-worker-terminate:', newerAs(credentials).workerManager.shouldWorkerTerminate(...who));
});

test('what is not there is not found', async () => {
  const { workerManager } = root;
  const [provisionerId, workerType] = ['official', unique('p').toLowerCase().slice(0, 37) + '0'];
  const none = [`${provisionerId}/${workerType}`, 'shelf', 'machine-1'];
  for (const call of [
    () => workerManager.workerPool(none[0]),
    () => workerManager.deleteWorkerPool(none[0]),
    () => workerManager.workerPoolStats(none[0]),
    () => workerManager.worker(...none),
    () => workerManager.getWorker(provisionerId, workerType, 'shelf', 'machine-1'),
  ]) {
    await failure(call(), 404, 'ResourceNotFound');
  }
  const nonsense = { continuationToken: 'nonsense' };
  for (const call of [
    () => workerManager.listProviders(nonsense),
    () => workerManager.listWorkerPoolLaunchConfigs(none[0], nonsense),
    () => workerManager.listWorkerPoolErrors(none[0], nonsense),
    () => workerManager.listWorkersForWorkerPool(none[0], nonsense),
    () => workerManager.listWorkersForWorkerGroup(none[0], 'shelf', nonsense),
    () => workerManager.listWorkers(provisionerId, workerType, nonsense),
    () => workerManager.workerPoolErrorStats({ workerPoolId: 'no-slash' }),
  ]) {
    await failure(call(), 400, 'InvalidRequestArguments');
  }
});
