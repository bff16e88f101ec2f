// Caches are purged: somebody asks for it, and workers ask what they have to forget, as generic-worker and docker-worker do.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { as, failure, needs, pages, root, taskQueue, withScopes } from './platform.mjs';

const { purgeCache } = root;

describe('purge-cache', { concurrency: true }, () => {
  test('a worker is told of what was asked for since it asked last', async () => {
    const workerPoolId = taskQueue();
    const [provisionerId, workerType] = workerPoolId.split('/');
    const worker = as(await withScopes([`purge-cache:purge-requests:${workerPoolId}`, `purge-cache:purge-requests::${workerPoolId}`])).purgeCache;
    assert.deepEqual(await worker.purgeRequests(workerPoolId), { requests: [] });

    const asked = new Date();
    await purgeCache.purgeCache(workerPoolId, { cacheName: 'checkouts' });
    const { requests } = await worker.purgeRequests(workerPoolId);
    assert.deepEqual(requests.map(({ before, ...rest }) => rest), [{ provisionerId, workerType, cacheName: 'checkouts' }]);
    assert(new Date(requests[0].before) >= asked, `${requests[0].before} is before ${asked.toJSON()}`);

    // The worker asks with the time of its last request.
    const since = new Date(new Date(requests[0].before).getTime() + 1).toJSON();
    assert.deepEqual((await worker.purgeRequests(workerPoolId, { since })).requests, []);
    await purgeCache.purgeCache(workerPoolId, { cacheName: 'tooltool' });
    await purgeCache.purgeCache(workerPoolId, { cacheName: 'checkouts' });
    const later = (await worker.purgeRequests(workerPoolId, { since })).requests;
    assert.deepEqual(later.map(one => one.cacheName).sort(), ['checkouts', 'tooltool']);
    assert.equal((await worker.purgeRequests(workerPoolId)).requests.length, 2, 'a cache has one request, the latest');
  });

  test('the requests for all pools are listed by page', async () => {
    const workerPoolId = taskQueue();
    const names = ['a', 'b', 'c', 'd', 'e'];
    for (const cacheName of names) {
      await purgeCache.purgeCache(workerPoolId, { cacheName });
    }
    const [requests, count] = await pages(query => purgeCache.allPurgeRequests(query), 'requests', 2);
    assert.deepEqual(requests.filter(one => `${one.provisionerId}/${one.workerType}` === workerPoolId).map(one => one.cacheName).sort(), names);
    assert(count >= 3);
  });

  test('what is wrong is refused', async () => {
    const workerPoolId = taskQueue();
    await failure(purgeCache.purgeCache(workerPoolId, { cache: 'checkouts' }), 400, 'InputValidationError');
    await failure(purgeCache.purgeCache('no-slash', { cacheName: 'checkouts' }), 400, 'InvalidRequestArguments');
    await failure(purgeCache.purgeRequests('no-slash'), 400, 'InvalidRequestArguments');
    await failure(purgeCache.purgeRequests(workerPoolId, { since: 'yesterday' }), 400);
    await failure(purgeCache.allPurgeRequests({ limit: 'many' }), 400, 'InvalidRequestArguments');

    const { purgeCache: poor } = as(await withScopes([`purge-cache:${workerPoolId}:mine`]));
    await poor.purgeCache(workerPoolId, { cacheName: 'mine' });
    await needs(`purge-cache:${workerPoolId}:yours`, poor.purgeCache(workerPoolId, { cacheName: 'yours' }));
  });
});
