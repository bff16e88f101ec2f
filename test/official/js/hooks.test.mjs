// Hooks create tasks: when somebody asks for it, when it is time, and when there is a message.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { anonymous, as, failure, found, needs, pages, root, rootCredentials, slugid, taskQueue, unique, until, withScopes } from './platform.mjs';

const { auth, hooks, notify, queue } = root;

const definition = more => ({
  metadata: { name: 'a hook', description: 'made by the official-client suite', owner: 'nobody@example.com', emailOnError: false },
  task: {
    taskQueueId: 'official/hooks',
    payload: { by: '${firedBy}', what: { $if: "firedBy == 'schedule'", then: {}, else: { $eval: 'payload' } } },
    metadata: { name: 'from ${taskId}', description: '', owner: 'nobody@example.com', source: 'https://example.com/suite' },
    deadline: { $fromNow: '1 hour' },
  },
  triggerSchema: {
    type: 'object', properties: { color: { enum: ['red', 'blue'], default: 'blue' }, taskId: { type: 'string' } }, additionalProperties: false,
  },
  ...more,
});

// A hook with the role that its tasks need.
const hook = async more => {
  const [hookGroupId, hookId] = [unique('official'), 'nightly/build'];
  await auth.createRole(`hook-id:${hookGroupId}/${hookId}`, {
    description: 'of a hook of the official-client suite', scopes: ['queue:create-task:lowest:official/hooks', 'queue:create-task:project:none', 'queue:scheduler-id:-'],
  });
  const created = await hooks.createHook(hookGroupId, hookId, definition(more));
  return { hookGroupId, hookId, id: [hookGroupId, hookId], created };
};

// The fires of a hook, once there are some.
const fires = (id, wanted = 1) => until('the hook is fired', async () => {
  const { lastFires } = await found(hooks.listLastFires(...id)) ?? { lastFires: [] };
  return lastFires.length >= wanted && lastFires;
});

describe('hooks', { concurrency: true }, () => {
  test('a hook lives from its creation to its removal', async () => {
    const { hookGroupId, hookId, id, created } = await hook();
    assert.deepEqual([created.hookGroupId, created.hookId, created.bindings, created.schedule], [hookGroupId, hookId, [], []]);
    assert.deepEqual(created.task, definition().task);
    assert.deepEqual(await hooks.hook(...id), created);
    assert.deepEqual(await hooks.createHook(...id, definition()), created);
    await failure(hooks.createHook(...id, definition({ schedule: ['0 0 3 * * *'] })), 409, 'RequestConflict');

    const updated = await hooks.updateHook(...id, definition({ schedule: ['0 0 3 * * *'] }));
    assert.deepEqual(updated.schedule, ['0 0 3 * * *']);
    const status = await hooks.getHookStatus(...id);
    assert.deepEqual(status.lastFire, { result: 'no-fire' });
    assert.match(status.nextScheduledDate, /T03:00:00\.000Z$/);

    assert((await hooks.listHookGroups()).groups.includes(hookGroupId));
    assert.deepEqual((await hooks.listHooks(hookGroupId)).hooks, [updated]);

    await hooks.removeHook(...id);
    await hooks.removeHook(...id);
    for (const call of [hooks.hook, hooks.getHookStatus, hooks.getTriggerToken, hooks.listLastFires]) {
      await failure(call.call(hooks, ...id), 404, 'ResourceNotFound');
    }
    await failure(hooks.updateHook(...id, definition()), 404, 'ResourceNotFound');
    await failure(hooks.triggerHook(...id, {}), 404, 'ResourceNotFound');
    await failure(hooks.listHooks(hookGroupId), 404, 'ResourceNotFound');
    assert(!(await hooks.listHookGroups()).groups.includes(hookGroupId));

    const { auditHistory } = await auth.getEntityHistory('hook', `${hookGroupId}/${hookId}`);
    assert.deepEqual(auditHistory.map(one => one.actionType), ['created', 'updated', 'deleted']);
  });

  test('a call fires a hook, with what it sends and the schema\'s defaults', async () => {
    const { id } = await hook();
    const { taskId, status } = await hooks.triggerHook(...id, {});
    assert.equal(status.taskId, taskId);
    const task = await queue.task(taskId);
    assert.deepEqual(task.payload, { by: 'triggerHook', what: { color: 'blue' } });
    assert.equal(task.metadata.name, `from ${taskId}`);
    assert.equal(task.taskGroupId, taskId);
    assert.equal(new Date(task.deadline) - new Date(task.created), 3600_000);

    const { lastFire } = await hooks.getHookStatus(...id);
    assert.deepEqual([lastFire.result, lastFire.taskId], ['success', taskId]);
    const [fire] = await fires(id);
    assert.deepEqual([fire.hookGroupId, fire.hookId, fire.firedBy, fire.taskId, fire.result, fire.error, fire.taskState],
      [...id, 'triggerHook', taskId, 'success', '', 'pending']);
  });

  test('a caller that chooses the taskId may call again', async () => {
    const { id } = await hook();
    const taskId = slugid();
    assert.equal((await hooks.triggerHook(...id, { taskId })).taskId, taskId);
    assert.equal((await hooks.triggerHook(...id, { taskId })).taskId, taskId);
    assert.equal((await fires(id)).length, 1);
  });

  test('whoever knows the token fires a hook, until it is reset', async () => {
    const { id } = await hook();
    const { token } = await hooks.getTriggerToken(...id);
    const { taskId } = await anonymous.hooks.triggerHookWithToken(...id, token, { color: 'red' });
    assert.deepEqual((await queue.task(taskId)).payload, { by: 'triggerHookWithToken', what: { color: 'red' } });
    const reset = await hooks.resetTriggerToken(...id);
    assert.notEqual(reset.token, token);
    assert.deepEqual(await hooks.getTriggerToken(...id), reset);
    await failure(anonymous.hooks.triggerHookWithToken(...id, token, {}), 401, 'AuthenticationFailed');
    await anonymous.hooks.triggerHookWithToken(...id, reset.token, {});
  });

  test('the clock fires a hook', async () => {
    const { id } = await hook({ schedule: ['* * * * * *'] });
    const [fire] = await fires(id);
    assert.deepEqual([fire.firedBy, fire.result, fire.error], ['schedule', 'success', '']);
    assert.equal((await queue.task(fire.taskId)).payload.by, 'schedule');
    const { lastFire, nextScheduledDate } = await hooks.getHookStatus(...id);
    assert.equal(lastFire.result, 'success');
    assert(new Date(nextScheduledDate) > new Date(fire.taskCreateTime));
    await hooks.removeHook(...id);
  });

  test('a message fires a hook', async () => {
    const topic = unique('official');
    const exchange = 'exchange/taskcluster-notify/v1/notification';
    const { id } = await hook({
      bindings: [{ exchange, routingKeyPattern: `route.${topic}.*` }], triggerSchema: { type: 'object', additionalProperties: true },
    });
    await notify.pulse({ routingKey: `${topic}.one`, message: { hello: 'world' } });
    const [fire] = await fires(id);
    assert.deepEqual([fire.firedBy, fire.result], ['pulseMessage', 'success']);
    assert.deepEqual((await queue.task(fire.taskId)).payload, { by: 'pulseMessage', what: { version: 1, message: { hello: 'world' } } });
    await hooks.removeHook(...id);
  });

  test('a hook that renders to nothing creates nothing', async () => {
    const { id } = await hook({ task: { $if: 'payload.color == "red"', then: definition().task } });
    assert.deepEqual(await hooks.triggerHook(...id, { color: 'blue' }), {});
    assert.equal(typeof (await hooks.triggerHook(...id, { color: 'red' })).taskId, 'string');
  });

  test('its fires are listed by page, the latest first', async () => {
    const { id } = await hook();
    const taskIds = [];
    for (let i = 0; i < 5; i++) {
      taskIds.push((await hooks.triggerHook(...id, {})).taskId);
    }
    const [lastFires, count] = await pages(query => hooks.listLastFires(...id, query), 'lastFires', 2);
    assert.deepEqual(lastFires.map(one => one.taskId), taskIds.toReversed());
    assert.equal(count, 3);
    await failure(hooks.listLastFires(...id, { continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
  });

  test('what goes wrong is told and remembered', async () => {
    const { id } = await hook();
    const err = await failure(hooks.triggerHook(...id, { color: 'green' }), 400, 'InputError');
    assert.match(err.message, /color/);
    await hooks.updateHook(...id, definition({ task: { $eval: 'nonsense' } }));
    await failure(hooks.triggerHook(...id, {}), 400, 'InputError');
    await hooks.updateHook(...id, definition({ task: { ...definition().task, priority: 'highest' } }));
    await needs('queue:create-task:highest:official/hooks', hooks.triggerHook(...id, {}));
    const failed = (await fires(id, 2))[0];
    assert.equal(failed.result, 'error');
    assert.match(failed.error, /queue:create-task:highest:official\/hooks/);
    assert.equal((await hooks.getHookStatus(...id)).lastFire.result, 'error');
  });

  test('a hook that makes no sense is refused', async () => {
    const create = more => hooks.createHook(unique('official'), 'h', definition(more));
    await failure(create({ schedule: ['every day'] }), 400, 'InputError');
    await failure(create({ triggerSchema: { type: 'nonsense' } }), 400, 'InputError');
    await failure(create({ task: 'none' }), 400, 'InputValidationError');
    await failure(create({ hookId: 'another' }), 400, 'InputError');
    await failure(create({ metadata: { name: 'no owner', description: '' } }), 400, 'InputValidationError');
    await failure(hooks.createHook('no spaces', 'h', definition()), 400, 'InvalidRequestArguments');
  });

  test('to change and to fire hooks takes scopes, to see them takes none', async () => {
    const { hookGroupId, hookId, id } = await hook();
    const poor = as(await withScopes([`hooks:modify-hook:${hookGroupId}/other`])).hooks;
    const name = `${hookGroupId}/${hookId}`;
    await needs(`hooks:modify-hook:${name}`, poor.createHook(...id, definition()));
    await needs(`hooks:modify-hook:${name}`, poor.updateHook(...id, definition()));
    await needs(`hooks:modify-hook:${name}`, poor.removeHook(...id));
    await needs(`hooks:trigger-hook:${name}`, poor.triggerHook(...id, {}));
    await needs(`hooks:get-trigger-token:${name}`, poor.getTriggerToken(...id));
    await needs(`hooks:reset-trigger-token:${name}`, poor.resetTriggerToken(...id));
    assert.equal((await anonymous.hooks.hook(...id)).hookId, hookId);
    await failure(as({ ...rootCredentials, accessToken: 'wrong' }).hooks.listHookGroups(), 401, 'AuthenticationFailed');
    // Nobody makes a hook that may do more than its maker.
    const half = as(await withScopes([`hooks:modify-hook:${name}`])).hooks;
    await needs(`assume:hook-id:${name}`, half.updateHook(...id, definition()));
    const whole = as(await withScopes([`hooks:modify-hook:${name}`, `assume:hook-id:${name}`])).hooks;
    await whole.updateHook(...id, definition());
  });
});
