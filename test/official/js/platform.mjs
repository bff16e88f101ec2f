// What every file of this suite needs: the platform from the environment, clients of it, and tasks to play with.
//
// The tests run beside each other and beside the Python suite on one platform, so each works on names of its own.

import assert from 'node:assert/strict';
import taskcluster from 'taskcluster-client';
import { recorded } from './calls.mjs';

export const { rootUrl, credentials: rootCredentials } = taskcluster.fromEnvVars();
assert(rootUrl && rootCredentials?.clientId && rootCredentials?.accessToken,
  'TASKCLUSTER_ROOT_URL, TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN must lead to a platform on which everything is allowed');

// For machines that are slow beyond reason: it fails nothing that works.
const patience = 180_000; // ms

export const { slugid, fromNow, fromNowJSON, createTemporaryCredentials } = taskcluster;

// The services, by the names that the platform gives them.
const classes = {
  auth: recorded(taskcluster.Auth),
  queue: recorded(taskcluster.Queue),
  index: recorded(taskcluster.Index),
  hooks: recorded(taskcluster.Hooks),
  secrets: recorded(taskcluster.Secrets),
  'purge-cache': recorded(taskcluster.PurgeCache),
  object: recorded(taskcluster.Object),
  notify: recorded(taskcluster.Notify),
  'worker-manager': recorded(taskcluster.WorkerManager),
};
export const serviceNames = Object.keys(classes);

const camelCase = name => name.replace(/-(.)/g, (_, letter) => letter.toUpperCase());

const clients = (classes, credentials, options) => Object.fromEntries(Object.entries(classes).map(
  ([name, Client]) => [camelCase(name), new Client({ rootUrl, credentials, retries: 0, timeout: patience, ...options })]));

// Clients of a holder of credentials. They do not retry: a 500 is a failure, not a pause.
export const as = (credentials, options = {}) => clients(classes, credentials, options);

// What a service says that it serves.
export const reference = async service => (await fetch(`${rootUrl}/references/${service}/v1/api.json`)).json();

// The client that is installed may be older than a method, but makes itself clients of whatever a reference says. This
// makes such ones of some services.
export const newer = async (...services) => {
  const all = {};
  for (const service of services) {
    all[service] = recorded(taskcluster.createClient(await reference(service), service));
  }
  return (credentials, options = {}) => clients(all, credentials, options);
};

export const root = as(rootCredentials);
export const anonymous = as({});

// A name that no other test uses.
export const unique = prefix => `${prefix}-${slugid().replaceAll('_', '-')}`;

// A new client with exactly these scopes.
export const withScopes = async scopes => {
  const clientId = `official/${unique('client')}`;
  const { accessToken } = await root.auth.createClient(clientId, {
    expires: fromNowJSON('1 hour'), description: 'made by the official-client suite', scopes,
  });
  return { clientId, accessToken };
};

// A task queue of one test alone.
export const taskQueue = () => `official/${unique('q').toLowerCase()}`.slice(0, 47);

export const taskFor = (taskQueueId, more = {}) => ({
  taskQueueId,
  created: fromNowJSON(),
  deadline: fromNowJSON('1 hour'),
  payload: { command: [['true']] },
  metadata: {
    name: 'official client suite', description: 'nobody runs this', owner: 'nobody@example.com', source: 'https://example.com/suite',
  },
  ...more,
});

export const createTask = async (taskQueueId, more) => {
  const taskId = slugid();
  await root.queue.createTask(taskId, taskFor(taskQueueId, more));
  return taskId;
};

export const worker = { workerGroup: 'official', workerId: 'suite' };

// Claims what the test knows to be pending, and answers the claims with clients that hold their credentials.
export const claim = async (taskQueueId, tasks = 1) => {
  const claimed = await root.queue.claimWork(taskQueueId, { ...worker, tasks });
  return claimed.tasks.map(one => ({ ...one, taskId: one.status.taskId, queue: as(one.credentials).queue }));
};

// A task that is running, with the claim's own client.
export const runningTask = async more => {
  const taskQueueId = taskQueue();
  const taskId = await createTask(taskQueueId, more);
  const [claimed] = await claim(taskQueueId);
  assert.equal(claimed?.taskId, taskId);
  return { ...claimed, taskQueueId };
};

// The error that a call fails with, after a look at what the client makes of every error. Without a code any will do.
export const failure = async (call, statusCode, wantedCode) => {
  let answer;
  try {
    answer = await call;
  } catch (err) {
    const code = wantedCode ?? err.code;
    assert.equal(err.statusCode, statusCode, err.stack);
    assert.equal(err.code, code, err.stack);
    assert.equal(err.body.code, code);
    assert.equal(err.body.message, err.message);
    assert.deepEqual(Object.keys(err.body.requestInfo).sort(), ['method', 'params', 'payload', 'time']);
    assert.match(err.message, new RegExp(
      `\\n\\n---\\n\\n\\* method:     ${err.body.requestInfo.method}\\n\\* errorCode:  ${code}\\n\\* statusCode: ${statusCode}\\n\\* time:       \\S+$`));
    return err;
  }
  assert.fail(`expected ${statusCode} ${wantedCode ?? ''}, and the call succeeded with ${JSON.stringify(answer)}`);
};

// The error of a call that its caller lacks a scope for.
export const needs = async (scope, call) => {
  const err = await failure(call, 403, 'InsufficientScopes');
  assert(err.message.includes(scope), `${scope} is not named in: ${err.message}`);
  return err;
};

// All pages of a list, at least one entry a page, as [entries, number of pages].
export const pages = async (list, key, limit) => {
  const entries = [];
  let count = 0;
  let continuationToken;
  do {
    const page = await list({ limit, ...(continuationToken && { continuationToken }) });
    assert(page[key].length <= limit, `a page of ${page[key].length} where ${limit} was the limit`);
    entries.push(...page[key]);
    continuationToken = page.continuationToken;
    count++;
    assert(count < 1000, 'the list does not end');
  } while (continuationToken);
  return [entries, count];
};

// What call answers as soon as that is something. It asks again and again: there is nothing to wait on in another process.
export const until = async (what, call) => {
  const end = Date.now() + patience;
  for (;;) {
    const answer = await call();
    if (answer) {
      return answer;
    }
    assert(Date.now() < end, `waited in vain until ${what}`);
    await new Promise(resolve => setTimeout(resolve, 50));
  }
};

// null where there is nothing, for until().
export const found = call => call.catch(err => {
  assert.equal(err.statusCode, 404, err.stack);
  return null;
});

// What has come to an email address, a channel of Slack or a room of Matrix, all of which official_test.go stands in for.
export const received = async to => {
  assert(process.env.OFFICIAL_OUTSIDE, 'OFFICIAL_OUTSIDE must lead to what takes the messages of the platform; go test sets it');
  return (await fetch(`${process.env.OFFICIAL_OUTSIDE}/received/${encodeURIComponent(to)}`)).json();
};
