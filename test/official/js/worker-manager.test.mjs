// Worker pools and their workers.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { as, anonymous, failure, pages, root, slugid, unique, withScopes } from './platform.mjs';

const { workerManager } = root;
const poolId = () => `official/${unique('p').toLowerCase()}`.slice(0, 46) + '0';

// A pool of the provider that runs workers on this machine, which starts none.
const definition = more => ({
  providerId: 'local',
  description: 'made by the official-client suite',
  owner: 'nobody@example.com',
  emailOnError: false,
  config: { minCapacity: 0, maxCapacity: 0, workerConfig: { idleTimeoutSecs: 30 } },
  ...more,
});

describe('worker pools', { concurrency: true }, () => {
  test('a pool lives from its creation to its deletion', async () => {
    const workerPoolId = poolId();
    const created = await workerManager.createWorkerPool(workerPoolId, definition());
    assert.equal(created.workerPoolId, workerPoolId);
    assert.equal(created.providerId, 'local');
    assert.equal(created.currentCapacity, 0);
    assert.deepEqual(created.config.workerConfig, definition().config.workerConfig);
    const read = await workerManager.workerPool(workerPoolId);
    assert.equal(read.created, created.created);
    assert.equal(read.owner, 'nobody@example.com');
    await failure(workerManager.createWorkerPool(workerPoolId, definition({ description: 'another' })), 409, 'RequestConflict');

    const updated = await workerManager.updateWorkerPool(workerPoolId, definition({ description: 'changed' }));
    assert.equal(updated.description, 'changed');
    assert.equal((await workerManager.workerPool(workerPoolId)).description, 'changed');

    const [pools] = await pages(query => workerManager.listWorkerPools(query), 'workerPools', 3);
    assert.equal(pools.filter(pool => pool.workerPoolId === workerPoolId).length, 1);

    assert.deepEqual((await workerManager.listWorkersForWorkerPool(workerPoolId)).workers, []);
    assert.deepEqual((await workerManager.listWorkersForWorkerGroup(workerPoolId, 'local')).workers, []);
    assert.deepEqual((await workerManager.listWorkerPoolErrors(workerPoolId)).workerPoolErrors, []);

    await workerManager.deleteWorkerPool(workerPoolId);
    const [left] = await pages(query => workerManager.listWorkerPools(query), 'workerPools', 3);
    const after = left.find(pool => pool.workerPoolId === workerPoolId);
    assert(!after || after.providerId === 'null-provider', 'a pool that is deleted is gone, or is going');
  });

  test('the providers are listed', async () => {
    const { providers } = await workerManager.listProviders();
    assert(providers.some(one => one.providerId === 'local'));
  });

  test('bad pools are refused', async () => {
    await failure(workerManager.createWorkerPool(poolId(), definition({ providerId: 'no-such-provider' })), 400, 'InputError');
    await failure(workerManager.createWorkerPool(poolId(), definition({ owner: 'nobody' })), 400, 'InputValidationError');
    await failure(workerManager.createWorkerPool(poolId(), definition({ config: { minCapacity: 2, maxCapacity: 1 } })), 400, 'InputError');
    await failure(workerManager.createWorkerPool(poolId(), definition({ config: { maxCapacity: 'many' } })), 400, 'InputError');
    await failure(workerManager.createWorkerPool('no-slash', definition()), 400, 'InvalidRequestArguments');
    await failure(workerManager.workerPool(poolId()), 404, 'ResourceNotFound');
    await failure(workerManager.updateWorkerPool(poolId(), definition()), 404, 'ResourceNotFound');
  });

  test('a pool takes scopes for itself and for its provider', async () => {
    const workerPoolId = poolId();
    const half = as(await withScopes([`worker-manager:manage-worker-pool:${workerPoolId}`]));
    const err = await failure(half.workerManager.createWorkerPool(workerPoolId, definition()), 403, 'InsufficientScopes');
    assert.match(err.message, /worker-manager:provider:local/);
    const whole = as(await withScopes([`worker-manager:manage-worker-pool:${workerPoolId}`, 'worker-manager:provider:local']));
    await whole.workerManager.createWorkerPool(workerPoolId, definition());
  });

  test('nobody registers a worker that was not started', async () => {
    const workerPoolId = poolId();
    await workerManager.createWorkerPool(workerPoolId, definition());
    await failure(anonymous.workerManager.registerWorker({
      workerPoolId, providerId: 'local', workerGroup: 'local', workerId: 'w-nobody',
      workerIdentityProof: { token: slugid() + slugid() },
    }), 400, 'InputError');
    await failure(workerManager.worker(workerPoolId, 'local', 'w-nobody'), 404, 'ResourceNotFound');
  });
});
