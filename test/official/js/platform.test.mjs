// What is there without credentials: health, references, schemas, and how an unknown path answers.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import taskcluster from 'taskcluster-client';
import { anonymous, failure, reference, root, rootUrl, serviceNames } from './platform.mjs';

const get = async path => {
  const response = await fetch(rootUrl + path);
  return { response, body: await response.json() };
};

// Methods of the installed client that were deprecated in its time, and that the API has no more.
const retired = ['declareProvisioner', 'declareWorkerType'];

describe('the platform', { concurrency: true }, () => {
  for (const [name, service] of Object.entries(anonymous)) {
    test(`${name} is alive, and tells its version`, async () => {
      const ping = await service.ping();
      assert.equal(ping.alive, true);
      assert.equal(typeof ping.uptime, 'number');
      await service.heartbeat();
      await service.lbheartbeat();
      const version = await service.version();
      assert.deepEqual(Object.keys(version).sort(), ['build', 'commit', 'source', 'version']);
    });
  }

  test('health is at the root too', async () => {
    for (const path of ['/__heartbeat__', '/__lbheartbeat__', '/__version__']) {
      const { response } = await get(path);
      assert.equal(response.status, 200, path);
    }
  });

  test('the manifest leads to references from which a client can be made', async () => {
    const { body: manifest } = await get('/references/manifest.json');
    for (const service of serviceNames) {
      const url = `${rootUrl}/references/${service}/v1/api.json`;
      assert(manifest.references.includes(url), `${url} is not in the manifest`);
      const served = await reference(service);
      assert.equal(served.$id, `${url}#`);
      assert.equal(served.serviceName, service);
      const Client = taskcluster.createClient(served);
      const ping = await new Client({ rootUrl, credentials: {} }).ping();
      assert.equal(ping.alive, true);
    }
    for (const url of manifest.references) {
      const response = await fetch(url);
      assert.equal(response.status, 200, url);
      const { $schema } = await response.json();
      assert($schema.startsWith(`${rootUrl}/schemas/`), `${url} has the $schema ${$schema}`);
    }
  });

  test('all that the client knows is served, as the client knows it', async () => {
    for (const client of Object.values(anonymous)) {
      const { entries } = await reference(client._options.serviceName);
      for (const name of Object.keys(Object.getPrototypeOf(client))) {
        const known = client[name].entryReference;
        if (known && !retired.includes(name)) {
          const served = entries.find(one => one.name === name);
          for (const property of ['method', 'route', 'args', 'query', 'input', 'output', 'stability']) {
            assert.deepEqual(served?.[property], known[property], `${client._options.serviceName}.${name}: ${property}`);
          }
        }
      }
    }
  });

  test('what the client still knows and the API has given up is not found', async () => {
    for (const [method, args] of [[root.queue.declareProvisioner, ['official']], [root.queue.declareWorkerType, ['official', 'suite']]]) {
      assert(retired.includes(method.entryReference.name));
      await assert.rejects(method.call(root.queue, ...args, { description: 'made by nobody' }), err => {
        assert.equal(err.statusCode, 404);
        assert.deepEqual(err.body, { error: 'Not found' });
        return true;
      });
    }
  });

  test('messages come from the exchanges that the client binds to', async () => {
    for (const name of Object.keys(taskcluster.clients).filter(name => /^(Auth|Hooks|Notify|Queue|WorkerManager)Events$/.test(name))) {
      const events = new taskcluster[name]({ rootUrl });
      const [, service] = events._options.exchangePrefix.match(/^exchange\/taskcluster-(.*)\/v1\/$/);
      const served = await (await fetch(`${rootUrl}/references/${service}/v1/exchanges.json`)).json();
      assert.equal(served.exchangePrefix, events._options.exchangePrefix);
      for (const method of Object.keys(taskcluster[name].prototype).filter(method => !['use', 'taskclusterPerRequestInstance'].includes(method) && !/Url$/.test(method))) {
        const { exchange, routingKeyReference } = events[method]();
        const entry = served.entries.find(one => served.exchangePrefix + one.exchange === exchange);
        assert.deepEqual(entry?.routingKey.map(key => [key.name, key.constant, key.multipleWords]),
          routingKeyReference.map(key => [key.name, key.constant, key.multipleWords]), exchange);
      }
    }
  });

  test('the schemas that a reference names are served', async () => {
    for (const service of serviceNames) {
      const { entries } = await reference(service);
      for (const name of new Set(entries.flatMap(entry => [entry.input, entry.output]).filter(Boolean))) {
        const url = `${rootUrl}/schemas/${service}/${name}`;
        const response = await fetch(url);
        assert.equal(response.status, 200, url);
        assert.equal((await response.json()).$id, url);
      }
    }
  });

  test('an unknown path is a 404 in JSON', async () => {
    for (const path of ['/api/queue/v1/no-such-thing', '/api/no-such-service/v1/ping', '/no-such-page']) {
      const { response, body } = await get(path);
      assert.equal(response.status, 404, path);
      assert.deepEqual(body, { error: 'Not found' });
    }
  });

  test('an unknown query parameter is refused by name', async () => {
    const { response, body } = await get('/api/queue/v1/ping?colour=blue');
    assert.equal(response.status, 400);
    assert.equal(body.code, 'InvalidRequestArguments');
    assert.match(body.message, /colour/);
  });

  test('every reply has ids to find it by, and lets a browser in', async () => {
    const traced = await fetch(`${rootUrl}/api/queue/v1/ping`, { headers: { 'x-taskcluster-trace-id': 'a-trace', origin: 'https://example.com' } });
    assert.equal(traced.headers.get('x-for-trace-id'), 'a-trace');
    assert.match(traced.headers.get('x-for-request-id'), /^[0-9a-f-]{36}$/);
    assert.equal(traced.headers.get('access-control-allow-origin'), '*');
    assert.match(traced.headers.get('content-type'), /^application\/json/);
    const fresh = await fetch(`${rootUrl}/api/queue/v1/ping`);
    assert.match(fresh.headers.get('x-for-trace-id'), /^[0-9a-f-]{36}$/);
  });

  test('a body that is no JSON is malformed', async () => {
    const response = await fetch(`${rootUrl}/api/auth/v1/test-authenticate`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"clientScopes": [',
    });
    assert.equal(response.status, 400);
    assert.equal((await response.json()).code, 'MalformedPayload');
  });

  test('a payload that does not fit the schema is told apart', async () => {
    const err = await failure(anonymous.auth.testAuthenticate({ clientScopes: 'all', requiredScopes: [] }), 400, 'InputValidationError');
    assert.match(err.message, /clientScopes/);
  });
});
