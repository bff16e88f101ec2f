// Secrets are set, read, listed and removed, by those who may.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { as, failure, fromNowJSON, needs, pages, root, unique, withScopes } from './platform.mjs';

const { secrets, auth } = root;
const value = more => ({ secret: { token: 'abc', nested: { list: [1, 2, 'ü'] }, ...more }, expires: fromNowJSON('1 hour') });

describe('secrets', { concurrency: true }, () => {
  test('a secret lives from its first value to its removal', async () => {
    const name = `official/${unique('s')}/with a space`;
    await failure(secrets.get(name), 404, 'ResourceNotFound');
    const first = value();
    await secrets.set(name, first);
    assert.deepEqual(await secrets.get(name), first);
    const second = value({ token: 'def' });
    await secrets.set(name, second);
    assert.deepEqual(await secrets.get(name), second);
    await secrets.remove(name);
    await failure(secrets.get(name), 404, 'ResourceNotFound');
    await secrets.remove(name);

    const { auditHistory } = await auth.getEntityHistory('secret', name);
    assert.deepEqual(auditHistory.map(one => one.actionType), ['created', 'updated', 'deleted']);
  });

  test('names are listed by page, values never', async () => {
    const prefix = `official/${unique('list')}/`;
    const names = ['a', 'b', 'c', 'd', 'e'].map(name => prefix + name);
    for (const name of names) {
      await secrets.set(name, value());
    }
    const [listed, count] = await pages(query => secrets.list(query), 'secrets', 3);
    assert.deepEqual(listed.filter(name => name.startsWith(prefix)), names);
    assert(count >= 2);
    await failure(secrets.list({ continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
  });

  test('a secret that has expired is gone', async () => {
    const name = `official/${unique('s')}`;
    await secrets.set(name, { ...value(), expires: fromNowJSON('- 1 minute') });
    await failure(secrets.get(name), 410, 'ResourceExpired');
    const [listed] = await pages(query => secrets.list(query), 'secrets', 100);
    assert(!listed.includes(name));
  });

  test('every method takes its scope', async () => {
    const name = `official/${unique('s')}`;
    await secrets.set(name, value());
    const { secrets: poor } = as(await withScopes(['secrets:get:official/other']));
    for (const [method, ...args] of [['get', name], ['set', name, value()], ['remove', name]]) {
      const err = await needs(`secrets:${method === 'get' ? 'get' : 'set'}:${name}`, poor[method](...args));
      assert(!JSON.stringify(err.body).includes('abc'), 'an error shows no secret');
    }
    await needs('secrets:list-secrets', poor.list());
    await failure(poor.get(`official/${unique('none')}`), 403, 'InsufficientScopes');
    const { secrets: reader } = as(await withScopes([`secrets:get:${name}`]));
    assert.equal((await reader.get(name)).secret.token, 'abc');
  });

  test('a value is an object', async () => {
    const err = await failure(secrets.set(`official/${unique('s')}`, { ...value(), secret: 'a string that nobody should see' }), 400, 'InputValidationError');
    assert.match(err.message, /secret/);
    assert(!JSON.stringify(err.body).includes('nobody should see'), 'an error shows no secret');
  });
});
