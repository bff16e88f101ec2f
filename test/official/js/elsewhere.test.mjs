// Credentials for accounts elsewhere, which auth derives from strong ones of the operator's. Where none are configured, it
// says what is missing.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { as, failure, needs, newer, root, rootCredentials, withScopes } from './platform.mjs';

const { auth } = root;
const newerAs = await newer('auth'); // the installed client does not know githubRepoToken
const { auth: newerAuth } = newerAs(rootCredentials);
const repoToken = { repositories: ['taskfleet'], permissions: { contents: 'read' } };

describe('credentials for elsewhere', { concurrency: true }, () => {
  test('what is not configured is said to be missing', async () => {
    const missing = async (entry, call) => {
      const err = await failure(call, 404, 'ResourceNotFound');
      assert.match(err.message, new RegExp(`\\(${entry}\\)`));
    };
    await missing('auth\\.azure', auth.azureTables('another'));
    await missing('auth\\.azure', auth.azureTableSAS('another', 'Table', 'read-only'));
    await missing('auth\\.azure', auth.azureContainers('another'));
    await missing('auth\\.azure', auth.azureContainerSAS('another', 'container', 'read-write'));
    await missing('auth\\.gcp', auth.gcpCredentials('project', 'someone@example.com'));
    await missing('auth\\.github', newerAuth.githubRepoToken('app', 'taskfleet', repoToken));
    await missing('auth\\.sentry', auth.sentryDSN('project'));
    await missing('auth\\.aws', auth.awsS3Credentials('read-only', 'another', 'prefix/'));
  });

  test('AWS lends access to a bucket', async () => {
    const lent = await auth.awsS3Credentials('read-write', 'official', 'some/prefix/');
    assert(new Date(lent.expires) > new Date());
    const { accessKeyId, secretAccessKey, sessionToken } = lent.credentials;
    assert(accessKeyId && secretAccessKey && sessionToken);
    const role = await auth.awsS3Credentials('read-only', 'official', '', { format: 'iam-role-compat' });
    assert.deepEqual(Object.keys(role).sort(), ['AccessKeyId', 'Code', 'Expiration', 'LastUpdated', 'SecretAccessKey', 'Token', 'Type']);
    await failure(auth.awsS3Credentials('read-only', 'official', '/prefix'), 400, 'InputError');
    await failure(auth.awsS3Credentials('read-only', 'official', '', { format: 'xml' }), 400, 'InvalidRequestArguments');
  });

  test('Azure lends access to tables and containers', async () => {
    assert.deepEqual(await auth.azureAccounts(), { accounts: ['official'] });
    assert.deepEqual(await auth.azureTables('official'), { tables: ['Builds'] });
    assert.deepEqual(await auth.azureContainers('official'), { containers: ['builds'] });
    for (const level of ['read-only', 'read-write']) {
      for (const { sas, expiry } of [await auth.azureTableSAS('official', 'Builds', level), await auth.azureContainerSAS('official', 'builds', level)]) {
        assert(new URLSearchParams(sas).get('sig'), sas);
        assert(new Date(expiry) > new Date());
      }
    }
    await failure(auth.azureTables('official', { continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
  });

  test('Google Cloud and GitHub lend tokens', async () => {
    const google = await auth.gcpCredentials('official', 'builder@example.com');
    assert.equal(google.accessToken, 'for builder@example.com');
    assert(new Date(google.expireTime) > new Date());
    await failure(auth.gcpCredentials('official', 'another@example.com'), 400, 'InvalidRequestArguments');

    const github = await newerAuth.githubRepoToken('official', 'taskfleet', repoToken);
    assert.equal(github.token, 'ghs_official');
    await failure(newerAuth.githubRepoToken('official', 'somebody', repoToken), 404, 'ResourceNotFound');
    await failure(newerAuth.githubRepoToken('official', 'taskfleet', { ...repoToken, permissions: { contents: 'all' } }), 400, 'InputValidationError');
  });

  test('websocktunnel lends a way in', async () => {
    const { wstAudience, wstClient, token, expires } = await auth.websocktunnelToken('audience', 'client');
    assert.deepEqual([wstAudience, wstClient], ['audience', 'client']);
    const claims = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    assert.deepEqual([claims.tid, claims.aud, claims.sub], ['client', 'audience', rootCredentials.clientId]);
    assert.equal(new Date(expires).getTime(), claims.exp * 1000);
  });

  test('it takes scopes, by level', async () => {
    const poor = await withScopes(['auth:aws-s3:read-only:bucket/mine/*', 'auth:azure-table:read-only:account/Mine']);
    const { auth: mine } = as(poor);
    await needs('auth:aws-s3:read-write:bucket/mine/', mine.awsS3Credentials('read-write', 'bucket', 'mine/'));
    await needs('auth:aws-s3:read-only:bucket/yours/', mine.awsS3Credentials('read-only', 'bucket', 'yours/'));
    await needs('auth:azure-table:list-accounts', mine.azureAccounts());
    await needs('auth:azure-table:list-tables:account', mine.azureTables('account'));
    await needs('auth:azure-table:read-write:account/Mine', mine.azureTableSAS('account', 'Mine', 'read-write'));
    await needs('auth:azure-container:list-containers:account', mine.azureContainers('account'));
    await needs('auth:azure-container:read-only:account/container', mine.azureContainerSAS('account', 'container', 'read-only'));
    await needs('auth:gcp:access-token:project/someone@example.com', mine.gcpCredentials('project', 'someone@example.com'));
    await needs('auth:sentry:project', mine.sentryDSN('project'));
    await needs('auth:websocktunnel-token:audience/client', mine.websocktunnelToken('audience', 'client'));
    await needs('auth:github-repo-token:app/taskfleet/', newerAs(poor).auth.githubRepoToken('app', 'taskfleet', repoToken));
    await failure(mine.awsS3Credentials('read-all', 'bucket', 'mine/'), 400, 'InvalidRequestArguments');
  });
});
