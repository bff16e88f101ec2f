// Task queues, what waits in them and what is claimed, and their workers: as seen by those who look after them.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { anonymous, as, claim, createTask, failure, fromNowJSON, needs, newer, pages, root, runningTask, slugid, taskQueue, withScopes, worker } from './platform.mjs';

const { queue } = root;
const newerAs = await newer('queue'); // the installed client does not know changeTaskPriority and changeTaskGroupPriority

describe('task queues', { concurrency: true }, () => {
  test('what is pending and what is claimed is listed by page', async () => {
    const taskQueueId = taskQueue();
    const taskIds = [];
    for (let i = 0; i < 6; i++) {
      taskIds.push(await createTask(taskQueueId));
    }
    const claims = await claim(taskQueueId, 3);
    const [pending] = await pages(query => queue.listPendingTasks(taskQueueId, query), 'tasks', 2);
    assert.deepEqual(pending.map(one => [one.taskId, one.runId]), taskIds.slice(3).map(taskId => [taskId, 0]));
    assert(pending.every(one => one.task.taskQueueId === taskQueueId && one.inserted));
    const [claimed] = await pages(query => queue.listClaimedTasks(taskQueueId, query), 'tasks', 2);
    assert.deepEqual(claimed.map(one => one.taskId).sort(), claims.map(one => one.taskId).sort());
    assert(claimed.every(one => one.workerGroup === worker.workerGroup && one.workerId === worker.workerId && one.claimed));
    for (const one of claims) {
      await one.queue.reportCompleted(one.taskId, 0);
    }
    assert.deepEqual((await queue.listClaimedTasks(taskQueueId)).tasks, []);
  });

  test('queues and workers are remembered', async () => {
    const { taskId, taskQueueId } = await runningTask();
    const [provisionerId, workerType] = taskQueueId.split('/');
    const { workerGroup, workerId } = worker;

    const known = await queue.getTaskQueue(taskQueueId);
    assert.equal(known.taskQueueId, taskQueueId);
    assert(new Date(known.expires) > new Date());
    const [queues] = await pages(query => queue.listTaskQueues(query), 'taskQueues', 50);
    assert(queues.some(one => one.taskQueueId === taskQueueId));
    assert.equal((await queue.getProvisioner(provisionerId)).provisionerId, provisionerId);
    const [provisioners] = await pages(query => queue.listProvisioners(query), 'provisioners', 1);
    assert(provisioners.some(one => one.provisionerId === provisionerId));
    assert.equal((await queue.getWorkerType(provisionerId, workerType)).workerType, workerType);
    const [types] = await pages(query => queue.listWorkerTypes(provisionerId, query), 'workerTypes', 50);
    assert(types.some(one => one.workerType === workerType));

    const seen = await queue.getWorker(provisionerId, workerType, workerGroup, workerId);
    assert.deepEqual([seen.workerGroup, seen.workerId, seen.recentTasks], [workerGroup, workerId, [{ taskId, runId: 0 }]]);
    const { workers } = await queue.listWorkers(provisionerId, workerType);
    assert.deepEqual(workers.map(one => [one.workerGroup, one.workerId, one.latestTask]), [[workerGroup, workerId, { taskId, runId: 0 }]]);

    const never = taskQueue();
    await failure(queue.getTaskQueue(never), 404, 'ResourceNotFound');
    await failure(queue.getWorkerType(...never.split('/')), 404, 'ResourceNotFound');
    await failure(queue.getProvisioner('official-never'), 404, 'ResourceNotFound');
    await failure(queue.getWorker(...never.split('/'), workerGroup, workerId), 404, 'ResourceNotFound');
    assert.deepEqual((await queue.listWorkers(...never.split('/'))).workers, []);
    for (const call of [queue.getTaskQueue, queue.pendingTasks, queue.taskQueueCounts, queue.listPendingTasks, queue.listClaimedTasks]) {
      await failure(call.call(queue, 'official/no spaces'), 400, 'InvalidRequestArguments');
    }
    for (const [list, ...args] of [[queue.listTaskQueues], [queue.listProvisioners], [queue.listWorkerTypes, provisionerId], [queue.listWorkers, provisionerId, workerType]]) {
      await failure(list.call(queue, ...args, { continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
    }
    assert.equal((await anonymous.queue.getTaskQueue(taskQueueId)).taskQueueId, taskQueueId);
  });

  test('a worker in quarantine gets no work', async () => {
    const taskQueueId = taskQueue();
    const who = [...taskQueueId.split('/'), worker.workerGroup, worker.workerId];
    await failure(queue.quarantineWorker(...who, { quarantineUntil: fromNowJSON('1 hour') }), 404, 'ResourceNotFound');
    const declared = await queue.declareWorker(...who, { expires: fromNowJSON('1 day') });
    assert.deepEqual([declared.taskQueueId, declared.workerId, declared.recentTasks], [taskQueueId, worker.workerId, []]);
    await failure(queue.declareWorker(...who, { expires: fromNowJSON('- 1 day') }), 400, 'InputError');

    const until = fromNowJSON('1 hour');
    const quarantined = await queue.quarantineWorker(...who, { quarantineUntil: until, quarantineInfo: 'its disk is broken' });
    assert.equal(quarantined.quarantineUntil, until);
    assert.deepEqual(quarantined.quarantineDetails.map(one => [one.quarantineUntil, one.quarantineInfo]), [[until, 'its disk is broken']]);
    const list = async quarantined => (await queue.listWorkers(...who.slice(0, 2), { quarantined })).workers.map(one => one.workerId);
    assert.deepEqual([await list('true'), await list('false')], [[worker.workerId], []]);

    // The claim waits, the quarantine ends, and then there is work.
    const taskId = await createTask(taskQueueId);
    const waiting = claim(taskQueueId);
    assert.equal((await queue.status(taskId)).status.state, 'pending');
    await queue.quarantineWorker(...who, { quarantineUntil: fromNowJSON('- 1 minute'), quarantineInfo: 'repaired' });
    assert.equal((await waiting)[0]?.taskId, taskId);
  });

  test('a task is claimed by its id', async () => {
    const taskQueueId = taskQueue();
    const taskId = await createTask(taskQueueId);
    const claimed = await queue.claimTask(taskId, 0, worker);
    assert.deepEqual([claimed.runId, claimed.workerId, claimed.status.state], [0, worker.workerId, 'running']);
    await failure(queue.claimTask(taskId, 0, { ...worker, workerId: 'another' }), 409, 'RequestConflict');
    await failure(queue.claimTask(slugid(), 0, worker), 404, 'ResourceNotFound');
    await as(claimed.credentials).queue.reportCompleted(taskId, 0);
  });

  test('a priority is changed, of a task and of a group', async () => {
    const { queue: newerQueue } = newerAs(root.queue._options.credentials);
    const taskQueueId = taskQueue();
    const [first, second, third] = [await createTask(taskQueueId), await createTask(taskQueueId), await createTask(taskQueueId)];
    const { status } = await newerQueue.changeTaskPriority(third, { newPriority: 'high' });
    assert.deepEqual([status.taskId, status.priority], [third, 'high']);
    assert.equal((await claim(taskQueueId))[0].taskId, third);
    const changed = await newerQueue.changeTaskGroupPriority(second, { newPriority: 'medium' });
    assert.deepEqual(changed, { taskGroupId: second, schedulerId: '-', newPriority: 'medium', tasksAffected: 1, taskIds: [second] });
    assert.deepEqual((await claim(taskQueueId, 2)).map(one => one.taskId), [second, first]);

    await failure(newerQueue.changeTaskPriority(first, { newPriority: 'urgent' }), 400, 'InputValidationError');
    await failure(newerQueue.changeTaskPriority(slugid(), { newPriority: 'low' }), 404, 'ResourceNotFound');
    await failure(newerQueue.changeTaskGroupPriority(slugid(), { newPriority: 'low' }), 404, 'ResourceNotFound');
    const poor = newerAs(await withScopes(['official:nothing'])).queue;
    await needs(`queue:change-task-priority:${first}`, poor.changeTaskPriority(first, { newPriority: 'low' }));
    await needs(`queue:change-task-group-priority:-/${first}`, poor.changeTaskGroupPriority(first, { newPriority: 'low' }));
  });

  test('to work takes scopes, to look takes none', async () => {
    const taskQueueId = taskQueue();
    const taskId = await createTask(taskQueueId);
    const who = [...taskQueueId.split('/'), worker.workerGroup, worker.workerId];
    const poor = as(await withScopes(['official:nothing'])).queue;
    await needs(`queue:claim-work:${taskQueueId}`, poor.claimWork(taskQueueId, { ...worker, tasks: 1 }));
    await needs(`queue:claim-task:${taskQueueId}`, poor.claimTask(taskId, 0, worker));
    await needs(`queue:quarantine-worker:${who.join('/')}`, poor.quarantineWorker(...who, { quarantineUntil: fromNowJSON() }));
    await needs(`queue:declare-worker:${who.join('/')}#expires`, poor.declareWorker(...who, { expires: fromNowJSON('1 hour') }));
    await needs('queue:schedule-task:', poor.scheduleTask(taskId));
    await needs('queue:rerun-task:', poor.rerunTask(taskId));
    await needs('queue:cancel-task:', poor.cancelTask(taskId));
    await needs(`queue:cancel-task-group:-/${taskId}`, poor.cancelTaskGroup(taskId));
    await needs(`queue:seal-task-group:-/${taskId}`, poor.sealTaskGroup(taskId));
  });
});
