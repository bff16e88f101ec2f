// Who may do what: clients, roles, temporary credentials, signed URLs.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  anonymous, as, createTemporaryCredentials, failure, fromNow, fromNowJSON, needs, pages, root, rootCredentials, rootUrl, unique, withScopes,
} from './platform.mjs';

const currentScopes = async (credentials, options) => (await as(credentials, options).auth.currentScopes()).scopes;
const canSeeScopes = 'auth:current-scopes';
const sorted = scopes => scopes.toSorted();

// The scopes that these tests give: what everybody has as anonymous is whatever the platform was set up with.
const own = scopes => sorted(scopes.filter(scope => scope.startsWith('official:') || scope.startsWith('test:')));

describe('clients', { concurrency: true }, () => {
  test('the root client may do everything', async () => {
    assert((await currentScopes(rootCredentials)).includes('*'));
  });

  test('a client lives from its creation to its deletion', async () => {
    const clientId = `official/${unique('life')}`;
    const definition = { expires: fromNowJSON('1 hour'), description: 'a life', scopes: [canSeeScopes, 'official:a'] };
    const created = await root.auth.createClient(clientId, definition);
    assert.match(created.accessToken, /^[a-zA-Z0-9_-]{22,66}$/);
    const credentials = { clientId, accessToken: created.accessToken };

    const { accessToken, ...rest } = created;
    assert.equal(rest.clientId, clientId);
    assert.equal(rest.disabled, false);
    assert.deepEqual(sorted(rest.scopes), sorted(definition.scopes));
    assert.deepEqual(Object.keys(await root.auth.client(clientId)).sort(), Object.keys(rest).sort(), 'a client that is read has no access token');
    assert.deepEqual(own(await currentScopes(credentials)), ['official:a']);

    await failure(root.auth.createClient(clientId, { ...definition, description: 'another life' }), 409, 'RequestConflict');

    const updated = await root.auth.updateClient(clientId, { ...definition, scopes: [canSeeScopes, 'official:b'] });
    assert.deepEqual(sorted(updated.scopes), sorted([canSeeScopes, 'official:b']));
    assert.deepEqual(own(await currentScopes(credentials)), ['official:b'], 'an update holds at once');

    assert.equal((await root.auth.disableClient(clientId)).disabled, true);
    await failure(currentScopes(credentials), 401, 'AuthenticationFailed');
    assert.equal((await root.auth.enableClient(clientId)).disabled, false);
    await currentScopes(credentials);

    const reset = await root.auth.resetAccessToken(clientId);
    assert.notEqual(reset.accessToken, accessToken);
    await failure(currentScopes(credentials), 401, 'AuthenticationFailed');
    await currentScopes({ clientId, accessToken: reset.accessToken });

    await root.auth.deleteClient(clientId);
    await failure(currentScopes({ clientId, accessToken: reset.accessToken }), 401, 'AuthenticationFailed');
    await failure(root.auth.client(clientId), 404, 'ResourceNotFound');
    await root.auth.deleteClient(clientId);
  });

  test('clients are listed by prefix and by page', async () => {
    const prefix = `official/${unique('list')}/`;
    const wanted = ['a', 'b', 'c', 'd', 'e'].map(name => prefix + name);
    for (const clientId of wanted) {
      await root.auth.createClient(clientId, { expires: fromNowJSON('1 hour'), description: '', scopes: [] });
    }
    const [listed] = await pages(query => root.auth.listClients({ prefix, ...query }), 'clients', 2);
    assert.deepEqual(listed.map(client => client.clientId).sort(), wanted);
  });

  test('nobody makes a client that may do more than its maker', async () => {
    const maker = as(await withScopes(['auth:create-client:official/*', 'official:some:*']));
    const clientId = `official/${unique('made')}`;
    const definition = { expires: fromNowJSON('1 hour'), description: '' };
    const err = await failure(maker.auth.createClient(clientId, { ...definition, scopes: ['official:other'] }), 403, 'InsufficientScopes');
    assert.match(err.message, /official:other/);
    await maker.auth.createClient(clientId, { ...definition, scopes: ['official:some:thing'] });
  });

  test('an expired client is refused', async () => {
    const clientId = `official/${unique('expired')}`;
    const { accessToken } = await root.auth.createClient(clientId, { expires: fromNowJSON('- 1 minute'), description: '', scopes: [canSeeScopes] });
    await failure(currentScopes({ clientId, accessToken }), 401, 'AuthenticationFailed');
  });
});

describe('roles', { concurrency: true }, () => {
  const expand = async (...scopes) => (await root.auth.expandScopes({ scopes })).scopes;

  test('a role lives from its creation to its deletion', async () => {
    const roleId = unique('official-role');
    const created = await root.auth.createRole(roleId, { description: 'a role', scopes: ['official:a', 'official:b'] });
    assert.equal(created.roleId, roleId);
    assert.deepEqual(sorted(created.scopes), ['official:a', 'official:b']);
    assert.deepEqual(sorted(await expand(`assume:${roleId}`)), sorted([`assume:${roleId}`, 'official:a', 'official:b']));

    const holder = await withScopes([canSeeScopes, `assume:${roleId}`]);
    assert((await currentScopes(holder)).includes('official:a'));

    await failure(root.auth.createRole(roleId, { description: 'another', scopes: [] }), 409, 'RequestConflict');
    await root.auth.updateRole(roleId, { description: 'a role', scopes: ['official:c'] });
    assert(!(await currentScopes(holder)).includes('official:a'), 'an update holds at once');
    assert((await currentScopes(holder)).includes('official:c'));

    const { roleId: read, expandedScopes } = await root.auth.role(roleId);
    assert.equal(read, roleId);
    assert(expandedScopes.includes('official:c'));
    const [roleIds] = await pages(query => root.auth.listRoleIds(query), 'roleIds', 5);
    assert(roleIds.includes(roleId));
    const [roles] = await pages(query => root.auth.listRoles2(query), 'roles', 5);
    assert.deepEqual(roles.find(role => role.roleId === roleId)?.scopes, ['official:c']);
    assert((await root.auth.listRoles()).some(role => role.roleId === roleId));

    await root.auth.deleteRole(roleId);
    await failure(root.auth.role(roleId), 404, 'ResourceNotFound');
    assert.deepEqual(await expand(`assume:${roleId}`), [`assume:${roleId}`]);
    await root.auth.deleteRole(roleId);
  });

  test('a role whose name ends in a star has a parameter', async () => {
    const prefix = unique('official-param');
    await root.auth.createRole(`${prefix}:*`, { description: '', scopes: ['official:read:<..>', 'official:list:<..>/*'] });
    assert.deepEqual(sorted(await expand(`assume:${prefix}:one`)),
      sorted([`assume:${prefix}:one`, 'official:read:one', 'official:list:one/*']));
    assert((await expand(`assume:${prefix}:on*`)).includes('official:read:on*'), 'a star in the scope goes through');
  });

  test('roles lead to roles, and not round in circles', async () => {
    const [a, b] = [unique('official-chain'), unique('official-chain')];
    await root.auth.createRole(a, { description: '', scopes: [`assume:${b}`, 'official:a'] });
    await root.auth.createRole(b, { description: '', scopes: ['official:b'] });
    assert.deepEqual(sorted(await expand(`assume:${a}`)), sorted([`assume:${a}`, `assume:${b}`, 'official:a', 'official:b']));
    const err = await failure(root.auth.updateRole(b, { description: '', scopes: [`assume:${a}`] }), 400, 'InputError');
    assert(err.message.includes(a));
    await failure(root.auth.createRole(unique('official-param') + ':*', { description: '', scopes: ['assume:<..>x'] }), 400, 'InputError');
  });

  test('what a scope with a star includes is not listed beside it', async () => {
    assert.deepEqual(sorted(await expand('official:*', 'official:a', 'other')), ['official:*', 'other']);
  });

  test('what anonymous may do, everybody may', async () => {
    const role = await root.auth.role('anonymous').catch(() => null);
    const definition = { description: 'what needs no credentials', scopes: [...new Set(role?.scopes).add('other:everybody')] };
    await (role ? root.auth.updateRole('anonymous', definition) : root.auth.createRole('anonymous', definition));
    const { hostname: host, port } = new URL(rootUrl);
    const nobody = await anonymous.auth.authenticateHawk({ method: 'get', resource: '/', host, port: Number(port) });
    assert(nobody.scopes.includes('assume:anonymous'));
    assert(nobody.scopes.includes('other:everybody'));
    assert((await currentScopes(await withScopes([canSeeScopes]))).includes('other:everybody'));
    assert((await currentScopes(await withScopes([canSeeScopes]), { authorizedScopes: [canSeeScopes] })).includes('other:everybody'));
  });
});

describe('temporary credentials', { concurrency: true }, () => {
  test('unnamed, they are their issuer with fewer scopes', async () => {
    const issuer = await withScopes([canSeeScopes, 'official:*']);
    const temporary = createTemporaryCredentials({ credentials: issuer, scopes: [canSeeScopes, 'official:less'], expiry: fromNow('10 minutes') });
    assert.equal(temporary.clientId, issuer.clientId);
    assert.deepEqual(own(await currentScopes(temporary)), ['official:less']);
  });

  test('named, they need the right to make that client', async () => {
    const name = `official/${unique('named')}`;
    const scopes = [canSeeScopes, 'official:one'];
    const temporary = credentials => createTemporaryCredentials({ credentials, clientId: name, scopes, expiry: fromNow('10 minutes') });
    const may = await withScopes([canSeeScopes, 'official:*', `auth:create-client:${name}`]);
    assert.equal(temporary(may).clientId, name);
    assert.deepEqual(own(await currentScopes(temporary(may))), ['official:one']);
    await failure(currentScopes(temporary(await withScopes([canSeeScopes, 'official:*']))), 401, 'AuthenticationFailed');
  });

  test('they give no more than their issuer has', async () => {
    const issuer = await withScopes([canSeeScopes]);
    const more = createTemporaryCredentials({ credentials: issuer, scopes: [canSeeScopes, 'official:more'], expiry: fromNow('10 minutes') });
    await failure(currentScopes(more), 401, 'AuthenticationFailed');
  });

  test('they end with their issuer', async () => {
    const issuer = await withScopes([canSeeScopes]);
    const temporary = createTemporaryCredentials({ credentials: issuer, scopes: [canSeeScopes], expiry: fromNow('10 minutes') });
    await currentScopes(temporary);
    await root.auth.disableClient(issuer.clientId);
    await failure(currentScopes(temporary), 401, 'AuthenticationFailed');
  });

  test('they hold for their time only, and only as they were signed', async () => {
    const issuer = await withScopes([canSeeScopes, 'official:*']);
    const temporary = (start, expiry) => createTemporaryCredentials({
      credentials: issuer, scopes: [canSeeScopes], start: fromNow(start), expiry: fromNow(expiry),
    });
    await currentScopes(temporary('- 1 minute', '1 minute'));
    await failure(currentScopes(temporary('- 2 hours', '- 1 hour')), 401, 'AuthenticationFailed');
    await failure(currentScopes(temporary('1 hour', '2 hours')), 401, 'AuthenticationFailed');

    const forged = temporary('- 1 minute', '1 minute');
    const certificate = JSON.parse(forged.certificate);
    certificate.scopes.push('official:forged');
    await failure(currentScopes({ ...forged, certificate }), 401, 'AuthenticationFailed');
  });

  test('authorizedScopes are fewer for one client object', async () => {
    const roleId = unique('official-role');
    const holder = await withScopes([canSeeScopes, `auth:delete-role:${roleId}`, 'official:*']);
    assert.deepEqual(own(await currentScopes(holder, { authorizedScopes: [canSeeScopes, 'official:less'] })), ['official:less']);
    await as(holder).auth.deleteRole(roleId);
    await failure(as(holder, { authorizedScopes: [canSeeScopes] }).auth.deleteRole(roleId), 403, 'InsufficientScopes');
    await failure(as(holder, { authorizedScopes: [] }).auth.deleteRole(roleId), 403, 'InsufficientScopes');
    await failure(currentScopes(holder, { authorizedScopes: [canSeeScopes, 'other'] }), 401, 'AuthenticationFailed');
  });

  test('authorizedScopes and a certificate go together', async () => {
    const issuer = await withScopes([canSeeScopes, 'official:*']);
    const temporary = createTemporaryCredentials({ credentials: issuer, scopes: [canSeeScopes, 'official:t:*'], expiry: fromNow('10 minutes') });
    assert.deepEqual(own(await currentScopes(temporary, { authorizedScopes: [canSeeScopes, 'official:t:1'] })), ['official:t:1']);
    await failure(currentScopes(temporary, { authorizedScopes: [canSeeScopes, 'official:u'] }), 401, 'AuthenticationFailed');
  });
});

describe('requests', { concurrency: true }, () => {
  const tester = { clientId: 'tester', accessToken: 'no-secret' };

  test('testAuthenticate lets a client try itself', async () => {
    const { auth } = as(tester);
    const answer = await auth.testAuthenticate({ clientScopes: ['test:*'], requiredScopes: ['test:scope'] });
    assert.equal(answer.clientId, 'tester');
    assert(answer.scopes.includes('test:*'));
    await failure(auth.testAuthenticate({ clientScopes: ['test:*'], requiredScopes: ['other'] }), 403, 'InsufficientScopes');
    await failure(as({ ...tester, accessToken: 'wrong' }).auth.testAuthenticate({ clientScopes: [], requiredScopes: [] }), 401, 'AuthenticationFailed');

    const get = await auth.testAuthenticateGet();
    assert.equal(get.clientId, 'tester');
    assert.deepEqual(own(get.scopes), ['test:*']);
  });

  test('testAuthenticate takes temporary credentials, named and not', async () => {
    const expiry = fromNow('10 minutes');
    const payload = { clientScopes: ['test:*', 'auth:create-client:test:*'], requiredScopes: ['test:scope'] };
    const named = createTemporaryCredentials({ credentials: tester, clientId: 'test:named', scopes: ['test:scope'], expiry });
    const unnamed = createTemporaryCredentials({ credentials: tester, scopes: ['test:scope'], expiry });
    assert.equal((await as(named).auth.testAuthenticate(payload)).clientId, 'test:named');
    assert.equal((await as(unnamed).auth.testAuthenticate(payload)).clientId, 'tester');
    await failure(as(named, { authorizedScopes: ['test:other'] }).auth.testAuthenticate(payload), 401, 'AuthenticationFailed');
  });

  test('a wrong token is a 401 that names its scheme', async () => {
    await failure(as({ ...rootCredentials, accessToken: 'wrong' }).auth.currentScopes(), 401, 'AuthenticationFailed');
    await failure(as({ clientId: 'official/nobody', accessToken: 'wrong' }).auth.currentScopes(), 401, 'AuthenticationFailed');
    const response = await fetch(root.auth.buildUrl(root.auth.currentScopes), { headers: { authorization: 'Hawk nonsense' } });
    assert.equal(response.status, 401);
    assert.match(response.headers.get('www-authenticate'), /^hawk/i);
  });

  test('what is missing is listed', async () => {
    const poor = as(await withScopes(['official:nothing']));
    const err = await failure(poor.auth.deleteRole('official-role'), 403, 'InsufficientScopes');
    assert.match(err.message, /auth:delete-role:official-role/);
    assert.equal(err.body.requestInfo.method, 'deleteRole');
    assert.deepEqual(err.body.requestInfo.params, { roleId: 'official-role' });
    assert.deepEqual(err.body.requestInfo.payload, {});
    assert.match(err.body.requestInfo.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    const unknown = await failure(root.auth.client('official/no-such-client'), 404, 'ResourceNotFound');
    assert.deepEqual(unknown.body.requestInfo.params, { clientId: 'official/no-such-client' });
  });

  test('a signed URL needs no header', async () => {
    for (const credentials of [tester, createTemporaryCredentials({ credentials: tester, scopes: ['test:authenticate-get'], expiry: fromNow('10 minutes') })]) {
      const { auth } = as(credentials, { authorizedScopes: ['test:authenticate-get'] });
      const url = auth.buildSignedUrl(auth.testAuthenticateGet);
      const response = await fetch(url);
      assert.equal(response.status, 200);
      assert.deepEqual(own((await response.json()).scopes), ['test:authenticate-get']);
      assert.equal((await fetch(url)).status, 200, 'a signed URL can be used again');
    }
  });

  test('a signed URL is good for its path, its query and its time', async () => {
    const { auth } = root;
    const url = auth.buildSignedUrl(auth.listClients, { prefix: 'official/', limit: '1' }, { expiration: 60 });
    assert.equal((await fetch(url)).status, 200);
    for (const bad of [
      url.replace('limit=1', 'limit=2'),
      url.replace('/clients/', '/roleids/'),
      url.replace(/bewit=..../, 'bewit=AAAA'),
      auth.buildSignedUrl(auth.listClients, { prefix: 'official/' }, { expiration: -60 }),
    ]) {
      const response = await fetch(bad);
      assert.equal(response.status, 401, bad);
      assert.equal((await response.json()).code, 'AuthenticationFailed');
    }
  });

  test('authenticateHawk answers for other services', async () => {
    const { hostname, port } = new URL(rootUrl);
    const request = { method: 'get', host: hostname, port: Number(port) };
    const signed = new URL(root.auth.buildSignedUrl(root.auth.currentScopes));
    const success = await anonymous.auth.authenticateHawk({ ...request, resource: signed.pathname + signed.search });
    assert.equal(success.status, 'auth-success');
    assert.equal(success.scheme, 'hawk');
    assert.equal(success.clientId, rootCredentials.clientId);
    assert(success.scopes.includes('*'));

    const none = await anonymous.auth.authenticateHawk({ ...request, resource: '/api/auth/v1/scopes/current' });
    assert.equal(none.status, 'no-auth');
    assert.equal(none.scheme, 'none');
    assert(none.scopes.includes('assume:anonymous'));

    const failed = await anonymous.auth.authenticateHawk({ ...request, resource: '/other' + signed.search });
    assert.equal(failed.status, 'auth-failed');
    assert.equal(typeof failed.message, 'string');
  });
});

describe('the history', { concurrency: true }, () => {
  const actions = history => history.map(one => one.actionType);

  test('what was done to an entity is told by page', async () => {
    const clientId = `official/${unique('history')}`;
    const definition = { expires: fromNowJSON('1 hour'), description: '', scopes: [] };
    await root.auth.createClient(clientId, definition);
    await root.auth.updateClient(clientId, { ...definition, description: 'changed' });
    await root.auth.disableClient(clientId);
    await root.auth.enableClient(clientId);
    await root.auth.resetAccessToken(clientId);
    await root.auth.deleteClient(clientId);
    const [history, count] = await pages(query => root.auth.getEntityHistory('client', clientId, query), 'auditHistory', 4);
    assert.deepEqual([actions(history)[0], actions(history)[1], actions(history).at(-1)], ['created', 'updated', 'deleted']);
    assert.equal(history.length, 6);
    assert.equal(count, 2);
    assert(history.every(one => one.entityType === 'client' && one.entityId === clientId && one.clientId === rootCredentials.clientId));

    const roleId = unique('official-history');
    await root.auth.createRole(roleId, { description: '', scopes: [] });
    await root.auth.updateRole(roleId, { description: 'changed', scopes: [] });
    await root.auth.deleteRole(roleId);
    assert.deepEqual(actions((await root.auth.getEntityHistory('role', roleId)).auditHistory), ['created', 'updated', 'deleted']);
    await failure(root.auth.getEntityHistory('planet', 'mars'), 400, 'InvalidRequestArguments');
  });

  test('what a client has done is told', async () => {
    const maker = await withScopes(['auth:create-role:official-by-*', 'auth:client-audit-history:*']);
    const roleIds = [unique('official-by'), unique('official-by'), unique('official-by')];
    for (const roleId of roleIds) {
      await as(maker).auth.createRole(roleId, { description: '', scopes: [] });
    }
    const [history, count] = await pages(query => as(maker).auth.listAuditHistory(maker.clientId, query), 'auditHistory', 2);
    assert.deepEqual(history.map(one => [one.entityType, one.entityId, one.actionType]), roleIds.map(roleId => ['role', roleId, 'created']));
    assert.equal(count, 2);
  });
});

describe('every method takes its scope', { concurrency: true }, () => {
  test('to change clients and roles, and to see what was changed', async () => {
    const { auth: poor } = as(await withScopes(['official:nothing']));
    const client = { expires: fromNowJSON('1 hour'), description: '', scopes: [] };
    const role = { description: '', scopes: [] };
    for (const [action, method, ...more] of [
      ['create', 'createClient', client], ['update', 'updateClient', client], ['enable', 'enableClient'], ['disable', 'disableClient'], ['delete', 'deleteClient'],
    ]) {
      await needs(`auth:${action}-client:official/a`, poor[method]('official/a', ...more));
    }
    await needs('auth:reset-access-token:official/a', poor.resetAccessToken('official/a'));
    await needs('auth:create-role:official-a', poor.createRole('official-a', role));
    await needs('auth:update-role:official-a', poor.updateRole('official-a', role));
    await needs('auth:audit-history:client', poor.getEntityHistory('client', 'official/a'));
    await needs('auth:client-audit-history:official/a', poor.listAuditHistory('official/a'));
  });

  test('unless everybody may do it', async () => {
    const { clientId } = await withScopes([]);
    assert.equal((await anonymous.auth.client(clientId)).clientId, clientId);
    assert.equal((await anonymous.auth.listClients({ prefix: clientId })).clients.length, 1);
    await needs(`auth:delete-client:${clientId}`, anonymous.auth.deleteClient(clientId));
    await failure(anonymous.auth.listClients({ limit: 0 }), 400, 'InvalidRequestArguments');
    await failure(anonymous.auth.listRoleIds({ continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
    await failure(anonymous.auth.listRoles2({ continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
    await failure(anonymous.auth.expandScopes({ scopes: 'all' }), 400, 'InputValidationError');
    await failure(root.auth.authenticateHawk({ method: 'get' }), 400, 'InputValidationError');
    await failure(as({ ...rootCredentials, accessToken: 'wrong' }).auth.listRoles(), 401, 'AuthenticationFailed');
    await failure(as({ ...rootCredentials, accessToken: 'wrong' }).auth.testAuthenticateGet(), 401, 'AuthenticationFailed');
  });
});
