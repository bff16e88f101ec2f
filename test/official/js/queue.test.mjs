// The life of a task: creation, dependencies, claim, resolution, and what can be asked about it meanwhile.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  as, claim, createTask, failure, fromNowJSON, pages, root, runningTask, slugid, taskFor, taskQueue, unique, withScopes, worker,
} from './platform.mjs';

const { queue } = root;
const stateOf = async taskId => (await queue.status(taskId)).status.state;

describe('creating tasks', { concurrency: true }, () => {
  test('a task is pending at once, and is read back with what was left out', async () => {
    const taskQueueId = taskQueue();
    const taskId = slugid();
    const definition = taskFor(taskQueueId);
    const { status } = await queue.createTask(taskId, definition);
    assert.equal(status.taskId, taskId);
    assert.equal(status.state, 'pending');
    assert.equal(status.taskGroupId, taskId);
    assert.equal(status.schedulerId, '-');
    assert.equal(status.projectId, 'none');
    assert.equal(status.retriesLeft, 5);
    assert.equal(status.taskQueueId, taskQueueId);
    assert.equal(`${status.provisionerId}/${status.workerType}`, taskQueueId);
    assert.equal(new Date(status.expires) > new Date(status.deadline), true);
    assert.equal(status.runs.length, 1);
    assert.equal(status.runs[0].state, 'pending');
    assert.equal(status.runs[0].reasonCreated, 'scheduled');
    assert.deepEqual(await queue.status(taskId), { status });

    const task = await queue.task(taskId);
    assert.deepEqual(task.payload, definition.payload);
    assert.deepEqual(task.metadata, definition.metadata);
    assert.equal(task.created, definition.created);
    assert.equal(task.deadline, definition.deadline);
    assert.equal(task.priority, 'lowest');
    assert.equal(task.requires, 'all-completed');
    assert.equal(task.retries, 5);
    for (const list of ['dependencies', 'routes', 'scopes']) {
      assert.deepEqual(task[list], []);
    }
    assert.deepEqual([task.tags, task.extra], [{}, {}]);
  });

  test('the same task may be created again, another under its id not', async () => {
    const taskId = slugid();
    const definition = taskFor(taskQueue());
    const first = await queue.createTask(taskId, definition);
    assert.deepEqual(await queue.createTask(taskId, definition), first);
    await failure(queue.createTask(taskId, { ...definition, payload: { command: [['false']] } }), 409, 'RequestConflict');
    assert.deepEqual((await queue.task(taskId)).payload, definition.payload);
  });

  test('provisionerId and workerType name a task queue too', async () => {
    const taskQueueId = taskQueue();
    const [provisionerId, workerType] = taskQueueId.split('/');
    const { taskQueueId: _, ...definition } = taskFor(taskQueueId);
    const { status } = await queue.createTask(slugid(), { ...definition, provisionerId, workerType });
    assert.equal(status.taskQueueId, taskQueueId);
  });

  test('deadlines lie ahead, and not too far', async () => {
    const create = times => queue.createTask(slugid(), taskFor(taskQueue(), times));
    for (const times of [
      { deadline: fromNowJSON('- 1 hour') },
      { deadline: fromNowJSON('6 days') },
      { created: fromNowJSON('2 hours'), deadline: fromNowJSON('1 hour') },
      { expires: fromNowJSON('30 minutes') },
    ]) {
      const err = await failure(create(times), 400, 'InputError');
      assert.equal(err.body.requestInfo.method, 'createTask');
    }
  });

  test('bad input is refused by name', async () => {
    const create = more => queue.createTask(slugid(), taskFor(taskQueue(), more));
    for (const [more, names] of [
      [{ priority: 'urgent' }, /priority/],
      [{ colour: 'blue' }, /colour/],
      [{ metadata: { name: 'n' } }, /description|owner|source/],
      [{ retries: 1000 }, /retries/],
      [{ created: 'yesterday' }, /created/],
      [{ scopes: 'all' }, /scopes/],
    ]) {
      const err = await failure(create(more), 400, 'InputValidationError');
      assert.match(err.message, names);
      assert.equal(err.body.requestInfo.payload.metadata.name.length > 0, true, 'the payload is shown');
    }
    await failure(queue.createTask('not-a-slug', taskFor(taskQueue())), 400, 'InvalidRequestArguments');
    await failure(create({ provisionerId: 'one', workerType: 'thing' }), 400, 'InputError');
  });

  test('what was never created is not found', async () => {
    const taskId = slugid();
    for (const method of ['task', 'status', 'cancelTask', 'rerunTask', 'scheduleTask', 'listDependentTasks', 'listTaskGroup', 'getTaskGroup', 'sealTaskGroup', 'cancelTaskGroup']) {
      await failure(queue[method](taskId), 404, 'ResourceNotFound');
    }
    assert.deepEqual(await queue.tasks({ taskIds: [taskId] }), { tasks: [] });
    assert.deepEqual(await queue.statuses({ taskIds: [taskId] }), { statuses: [] });
    await failure(queue.tasks({ taskIds: taskId }), 400, 'InputValidationError');
    await failure(queue.statuses({ taskIds: taskId }), 400, 'InputValidationError');
  });

  test('creating takes scopes for the queue, the scheduler, the project, and all that the task may do', async () => {
    const taskQueueId = taskQueue();
    const definition = taskFor(taskQueueId, { schedulerId: 'official', projectId: 'suite', priority: 'low', scopes: ['official:do'], routes: ['official.route'] });
    const needed = [
      `queue:create-task:low:${taskQueueId}`, 'queue:scheduler-id:official', 'queue:create-task:project:suite', 'official:do', 'queue:route:official.route',
    ];
    const enough = as(await withScopes(needed));
    await enough.queue.createTask(slugid(), definition);
    for (const missing of needed) {
      const less = as(await withScopes(needed.filter(scope => scope !== missing)));
      const err = await failure(less.queue.createTask(slugid(), definition), 403, 'InsufficientScopes');
      assert(err.message.includes(missing), `${missing} is not named in: ${err.message}`);
    }
    const higher = as(await withScopes([`queue:create-task:high:${taskQueueId}`, ...needed.slice(1)]));
    await higher.queue.createTask(slugid(), definition);
  });

  test('many tasks are read at once', async () => {
    const taskQueueId = taskQueue();
    const taskIds = await Promise.all([1, 2, 3].map(() => createTask(taskQueueId)));
    const { tasks } = await queue.tasks({ taskIds: [...taskIds, slugid()] });
    assert.deepEqual(tasks.map(one => one.taskId).sort(), taskIds.toSorted());
    assert(tasks.every(one => one.task.taskQueueId === taskQueueId));
    const [statuses] = await pages(query => queue.statuses({ taskIds }, query), 'statuses', 2);
    assert.deepEqual(statuses.map(one => one.taskId).sort(), taskIds.toSorted());
    assert(statuses.every(one => one.status.state === 'pending'));
  });
});

describe('dependencies', { concurrency: true }, () => {
  test('a task waits for those that it depends on', async () => {
    const taskQueueId = taskQueue();
    const [a, b] = [await createTask(taskQueueId), await createTask(taskQueueId)];
    const after = await createTask(taskQueueId, { dependencies: [a, b] });
    assert.equal(await stateOf(after), 'unscheduled');
    assert.deepEqual((await queue.status(after)).status.runs, []);

    const claims = await claim(taskQueueId, 3);
    assert.deepEqual(claims.map(one => one.taskId).sort(), [a, b].sort());
    await claims[0].queue.reportCompleted(claims[0].taskId, 0);
    assert.equal(await stateOf(after), 'unscheduled');
    await claims[1].queue.reportCompleted(claims[1].taskId, 0);
    const [last] = await claim(taskQueueId);
    assert.equal(last.taskId, after);
  });

  test('all-completed does not go on after a failure, all-resolved does', async () => {
    const taskQueueId = taskQueue();
    const first = await createTask(taskQueueId);
    const completed = await createTask(taskQueueId, { dependencies: [first], requires: 'all-completed' });
    const resolved = await createTask(taskQueueId, { dependencies: [first], requires: 'all-resolved' });
    const [claimed] = await claim(taskQueueId);
    await claimed.queue.reportFailed(first, 0);
    const [next] = await claim(taskQueueId, 2);
    assert.equal(next.taskId, resolved);
    assert.equal(await stateOf(completed), 'unscheduled');
  });

  test('a dependency that does not exist is refused', async () => {
    const missing = slugid();
    const err = await failure(queue.createTask(slugid(), taskFor(taskQueue(), { dependencies: [missing] })), 400, 'InputError');
    assert.match(err.message, new RegExp(missing));
  });

  test('a task that depends on itself waits to be scheduled', async () => {
    const taskQueueId = taskQueue();
    const taskId = slugid();
    const { status } = await queue.createTask(taskId, taskFor(taskQueueId, { dependencies: [taskId] }));
    assert.equal(status.state, 'unscheduled');
    assert.equal((await queue.scheduleTask(taskId)).status.state, 'pending');
  });

  test('the dependents of a task are listed by page', async () => {
    const taskQueueId = taskQueue();
    const first = await createTask(taskQueueId);
    const dependents = await Promise.all([1, 2, 3, 4, 5].map(() => createTask(taskQueueId, { dependencies: [first] })));
    const [tasks, count] = await pages(query => queue.listDependentTasks(first, query), 'tasks', 2);
    assert.deepEqual(tasks.map(one => one.status.taskId).sort(), dependents.sort());
    assert(tasks.every(one => one.task.dependencies[0] === first));
    assert(count >= 3);
  });
});

describe('running tasks', { concurrency: true }, () => {
  test('a claim gives the task, and credentials for just this run', async () => {
    const taskQueueId = taskQueue();
    const taskId = await createTask(taskQueueId, { scopes: ['official:do'] });
    const [claimed] = await claim(taskQueueId, 4);
    assert.equal(claimed.taskId, taskId);
    assert.equal(claimed.runId, 0);
    assert.equal(claimed.task.taskQueueId, taskQueueId);
    assert.deepEqual([claimed.workerGroup, claimed.workerId], [worker.workerGroup, worker.workerId]);
    assert.equal(claimed.status.state, 'running');
    const [run] = claimed.status.runs;
    assert.deepEqual([run.workerGroup, run.workerId, run.takenUntil], [worker.workerGroup, worker.workerId, claimed.takenUntil]);
    assert(new Date(claimed.takenUntil) > new Date());

    assert.match(claimed.credentials.clientId, new RegExp(`^task-client/${taskId}/0/on/${worker.workerGroup}/${worker.workerId}/until/\\d+$`));
    assert.equal(typeof claimed.credentials.certificate, 'string');
    const certificate = JSON.parse(claimed.credentials.certificate);
    for (const scope of ['reclaim-task', 'resolve-task', 'create-artifact'].map(what => `queue:${what}:${taskId}/0`).concat('official:do')) {
      assert(certificate.scopes.includes(scope), `the certificate lacks ${scope}`);
    }

    const other = await runningTask();
    await failure(claimed.queue.reportCompleted(other.taskId, 0), 403, 'InsufficientScopes');
    await failure(claimed.queue.cancelTask(taskId), 403, 'InsufficientScopes');
  });

  test('a claim is renewed', async () => {
    const { taskId, queue: own, takenUntil } = await runningTask();
    const again = await own.reclaimTask(taskId, 0);
    assert(new Date(again.takenUntil) >= new Date(takenUntil));
    assert.equal(again.status.runs[0].takenUntil, again.takenUntil);
    assert.deepEqual([again.runId, again.workerGroup, again.workerId], [0, worker.workerGroup, worker.workerId]);
    const renewed = as(again.credentials).queue;
    assert.equal((await renewed.reportCompleted(taskId, 0)).status.state, 'completed');
    await failure(renewed.reclaimTask(taskId, 0), 409, 'RequestConflict');
  });

  test('a claim that waits is answered as soon as there is a task', async () => {
    const taskQueueId = taskQueue();
    const waiting = claim(taskQueueId);
    // The test does not depend on which of the two requests comes first; mostly it is the claim.
    const taskId = await createTask(taskQueueId);
    assert.equal((await waiting)[0]?.taskId, taskId);
  });

  test('a claim of an empty queue ends empty', async () => {
    assert.deepEqual(await claim(taskQueue()), []);
  });

  test('each task is given to one worker, the urgent first, then the older', async () => {
    const taskQueueId = taskQueue();
    const taskIds = [];
    for (const priority of ['low', 'high', 'low', 'highest', 'lowest']) {
      taskIds.push(await createTask(taskQueueId, { priority }));
    }
    const order = [];
    for (let i = 0; i < taskIds.length; i++) {
      order.push((await claim(taskQueueId))[0].taskId);
    }
    assert.deepEqual(order, [3, 1, 0, 2, 4].map(i => taskIds[i]));
  });

  test('completed twice is once, failed after that is a conflict', async () => {
    const { taskId, queue: own } = await runningTask();
    const { status } = await own.reportCompleted(taskId, 0);
    assert.deepEqual([status.state, status.runs[0].state, status.runs[0].reasonResolved], ['completed', 'completed', 'completed']);
    assert.deepEqual(await own.reportCompleted(taskId, 0), { status });
    await failure(own.reportFailed(taskId, 0), 409, 'RequestConflict');
    await failure(own.reportException(taskId, 0, { reason: 'malformed-payload' }), 409, 'RequestConflict');
  });

  test('a failure is final, and can be run again by hand', async () => {
    const { taskId, queue: own, taskQueueId } = await runningTask({ retries: 1 });
    assert.equal((await own.reportFailed(taskId, 0)).status.state, 'failed');
    const { status } = await queue.rerunTask(taskId);
    assert.equal(status.state, 'pending');
    assert.deepEqual(status.runs.map(run => run.reasonCreated), ['scheduled', 'rerun']);
    assert.equal(status.retriesLeft, 1);
    assert.equal((await queue.rerunTask(taskId)).status.runs.length, 2, 'a task that is pending is not run again');
    const [second] = await claim(taskQueueId);
    assert.deepEqual([second.taskId, second.runId], [taskId, 1]);
    await failure(own.reportCompleted(taskId, 1), 403, 'InsufficientScopes');
    assert.equal((await second.queue.reportCompleted(taskId, 1)).status.state, 'completed');
  });

  test('a worker that goes away costs a retry, and then there are none left', async () => {
    const { taskId, queue: own, taskQueueId } = await runningTask({ retries: 1 });
    const { status } = await own.reportException(taskId, 0, { reason: 'worker-shutdown' });
    assert.equal(status.state, 'pending');
    assert.equal(status.retriesLeft, 0);
    assert.deepEqual(status.runs.map(run => [run.state, run.reasonCreated]), [['exception', 'scheduled'], ['pending', 'retry']]);
    const [second] = await claim(taskQueueId);
    const last = await second.queue.reportException(taskId, 1, { reason: 'worker-shutdown' });
    assert.equal(last.status.state, 'exception');
    assert.equal(last.status.runs.length, 2);
  });

  test('reasons for an exception are final or not', async () => {
    for (const [reason, state, reasonCreated] of [
      ['intermittent-task', 'pending', 'task-retry'],
      ['malformed-payload', 'exception'],
      ['resource-unavailable', 'exception'],
      ['internal-error', 'exception'],
    ]) {
      const { taskId, queue: own } = await runningTask();
      const { status } = await own.reportException(taskId, 0, { reason });
      assert.equal(status.state, state, reason);
      assert.equal(status.runs[0].reasonResolved, reason);
      assert.equal(status.runs[1]?.reasonCreated, reasonCreated);
    }
    const { taskId, queue: own } = await runningTask();
    await failure(own.reportException(taskId, 0, { reason: 'bored' }), 400, 'InputValidationError');
  });

  test('a task is cancelled before, while and after it runs', async () => {
    const unscheduled = await createTask(taskQueue(), { dependencies: [await createTask(taskQueue())] });
    const pending = await createTask(taskQueue());
    const running = await runningTask();
    for (const taskId of [unscheduled, pending, running.taskId]) {
      const { status } = await queue.cancelTask(taskId);
      assert.equal(status.state, 'exception');
      assert.equal(status.runs.at(-1).reasonResolved, 'canceled');
      assert.equal(status.runs.length, 1);
      assert.deepEqual((await queue.cancelTask(taskId)).status, status, 'once more changes nothing');
    }
    await failure(running.queue.reportCompleted(running.taskId, 0), 409, 'RequestConflict');
    await failure(running.queue.reclaimTask(running.taskId, 0), 409, 'RequestConflict');

    const done = await runningTask();
    await done.queue.reportCompleted(done.taskId, 0);
    assert.equal((await queue.cancelTask(done.taskId)).status.state, 'completed', 'what is resolved stays so');
  });

  test('a claim takes a worker with a name, and not too many tasks', async () => {
    await failure(queue.claimWork(taskQueue(), { ...worker, tasks: 33 }), 400, 'InputValidationError');
    await failure(queue.claimWork(taskQueue(), { workerGroup: 'official', workerId: 'no spaces', tasks: 1 }), 400, 'InputValidationError');
    const taskQueueId = taskQueue();
    const stranger = as(await withScopes([`queue:claim-work:${taskQueueId}`, 'queue:worker-id:other/*']));
    await failure(stranger.queue.claimWork(taskQueueId, { ...worker, tasks: 1 }), 403, 'InsufficientScopes');
  });
});

describe('task queues', { concurrency: true }, () => {
  test('what is pending and what is claimed is counted', async () => {
    const taskQueueId = taskQueue();
    await Promise.all([1, 2, 3].map(() => createTask(taskQueueId)));
    assert.equal((await queue.pendingTasks(taskQueueId)).pendingTasks, 3);
    await claim(taskQueueId);
    const counts = await queue.taskQueueCounts(taskQueueId);
    assert.deepEqual([counts.pendingTasks, counts.claimedTasks, counts.taskQueueId], [2, 1, taskQueueId]);
    assert.equal((await queue.pendingTasks(taskQueue())).pendingTasks, 0, 'a queue that nobody has used is empty');
  });

  test('limits and continuation tokens are checked', async () => {
    const taskId = await createTask(taskQueue());
    await failure(queue.listTaskGroup(taskId, { limit: 0 }), 400, 'InvalidRequestArguments');
    await failure(queue.listTaskGroup(taskId, { limit: 'ten' }), 400, 'InvalidRequestArguments');
    await failure(queue.listTaskGroup(taskId, { continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
  });
});

describe('task groups', { concurrency: true }, () => {
  const group = async size => {
    const taskQueueId = taskQueue();
    const taskGroupId = slugid();
    const taskIds = [];
    for (let i = 0; i < size; i++) {
      taskIds.push(await createTask(taskQueueId, { taskGroupId, schedulerId: 'official' }));
    }
    return { taskQueueId, taskGroupId, taskIds };
  };

  test('a group is listed by page', async () => {
    const { taskGroupId, taskIds } = await group(7);
    const [tasks, count] = await pages(query => queue.listTaskGroup(taskGroupId, query), 'tasks', 3);
    assert.deepEqual(tasks.map(one => one.status.taskId).sort(), taskIds.sort());
    assert(tasks.every(one => one.task.taskGroupId === taskGroupId));
    assert(count >= 3);
    const page = await queue.listTaskGroup(taskGroupId, { limit: 1000 });
    assert.deepEqual([page.taskGroupId, page.schedulerId, page.tasks.length, page.continuationToken], [taskGroupId, 'official', 7, undefined]);
  });

  test('a group has one scheduler', async () => {
    const { taskGroupId, taskQueueId } = await group(1);
    await failure(queue.createTask(slugid(), taskFor(taskQueueId, { taskGroupId, schedulerId: 'another' })), 409, 'RequestConflict');
  });

  test('a sealed group takes no more tasks, and can be cancelled', async () => {
    const { taskGroupId, taskQueueId, taskIds } = await group(4);
    await failure(queue.cancelTaskGroup(taskGroupId), 409, 'RequestConflict');
    assert.equal((await queue.getTaskGroup(taskGroupId)).sealed, undefined);
    const { sealed } = await queue.sealTaskGroup(taskGroupId);
    assert(sealed);
    assert.equal((await queue.sealTaskGroup(taskGroupId)).sealed, sealed);
    const read = await queue.getTaskGroup(taskGroupId);
    assert.deepEqual([read.taskGroupId, read.schedulerId, read.sealed], [taskGroupId, 'official', sealed]);
    await failure(queue.createTask(slugid(), taskFor(taskQueueId, { taskGroupId, schedulerId: 'official' })), 409, 'RequestConflict');

    const [done, running] = await claim(taskQueueId, 2);
    await done.queue.reportCompleted(done.taskId, 0);
    const cancelled = await queue.cancelTaskGroup(taskGroupId);
    assert.equal(cancelled.taskGroupId, taskGroupId);
    assert.equal(cancelled.taskGroupSize, 4);
    assert.equal(cancelled.cancelledCount, 3);
    assert.deepEqual(cancelled.taskIds.sort(), taskIds.filter(taskId => taskId !== done.taskId).sort());
    const { tasks } = await queue.listTaskGroup(taskGroupId);
    assert.deepEqual(tasks.map(one => one.status.state).sort(), ['completed', 'exception', 'exception', 'exception']);
    await failure(running.queue.reportCompleted(running.taskId, 0), 409, 'RequestConflict');
  });
});
