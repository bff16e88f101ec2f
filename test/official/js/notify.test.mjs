// Messages to people and on the exchange, and those who want none.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { as, failure, needs, pages, received, root, runningTask, unique, until, withScopes } from './platform.mjs';

const { notify } = root;
const mail = more => ({ address: `${unique('someone').toLowerCase()}@example.com`, subject: 'Something happened', content: 'It is *done*.', ...more });

describe('notify', { concurrency: true }, () => {
  test('a message is published once', async () => {
    const message = { routingKey: unique('official'), message: { text: 'hello' } };
    await notify.pulse(message); // hooks.test.mjs looks at what arrives
    await notify.pulse(message);
    await failure(notify.pulse({ ...message, routingKey: 'x'.repeat(300) }), 400, 'InputValidationError');
    await failure(notify.pulse({ ...message, message: 'hello' }), 400, 'InputValidationError');
  });

  test('who is on the denylist gets nothing', async () => {
    const address = { notificationType: 'pulse', notificationAddress: unique('official') };
    const message = { routingKey: address.notificationAddress, message: {} };
    await notify.addDenylistAddress(address);
    await notify.addDenylistAddress(address);
    await failure(notify.pulse(message), 400, 'DenylistedAddress');
    const [addresses] = await pages(query => notify.listDenylist(query), 'addresses', 2);
    assert.deepEqual(addresses.filter(one => one.notificationAddress === address.notificationAddress), [address]);
    await notify.deleteDenylistAddress(address);
    await notify.deleteDenylistAddress(address);
    await notify.pulse(message);
    await failure(notify.addDenylistAddress({ ...address, notificationType: 'pigeon' }), 400, 'InputValidationError');
    await failure(notify.deleteDenylistAddress({ notificationType: 'pulse' }), 400, 'InputValidationError');
    await failure(notify.listDenylist({ continuationToken: 'nonsense' }), 400, 'InvalidRequestArguments');
  });

  test('the denylist is listed by page', async () => {
    const prefix = unique('official');
    const wanted = ['a', 'b', 'c'].map(name => ({ notificationType: 'email', notificationAddress: `${prefix}-${name}@example.com`.toLowerCase() }));
    for (const address of wanted) {
      await notify.addDenylistAddress(address);
    }
    const [addresses, count] = await pages(query => notify.listDenylist(query), 'addresses', 2);
    assert.deepEqual(addresses.filter(one => one.notificationAddress.startsWith(prefix.toLowerCase()))
      .map(one => one.notificationAddress).sort(), wanted.map(one => one.notificationAddress));
    assert(count >= 2);
    for (const address of wanted) {
      await notify.deleteDenylistAddress(address);
    }
  });

  test('an email is sent once', async () => {
    const message = mail({ link: { text: 'Look', href: 'https://example.com/look' }, replyTo: 'owner@example.com' });
    await notify.email(message);
    await notify.email(message);
    const mails = await received(message.address);
    assert.equal(mails.length, 1);
    assert.match(mails[0].text, /^Subject: Something happened\r$/m);
    assert.match(mails[0].text, /^Reply-To: <owner@example\.com>\r$/m);
    assert.match(mails[0].text, /It is \*done\*\./);
    assert.match(mails[0].text, /<em>done<\/em>/);
    assert.match(mails[0].text, /https:\/\/example\.com\/look/);
    await notify.email({ ...message, subject: 'Something else happened' });
    assert.equal((await received(message.address)).length, 2);

    await failure(notify.email(mail({ address: 'nowhere@example.com' })), 400, 'InputError');
    await failure(notify.email(mail({ address: 'nobody' })), 400, 'InputValidationError');
    const denied = mail();
    await notify.addDenylistAddress({ notificationType: 'email', notificationAddress: denied.address });
    await failure(notify.email(denied), 400, 'DenylistedAddress');
    assert.deepEqual(await received(denied.address), []);
  });

  test('Slack and Matrix are written to', async () => {
    const channelId = unique('C').toUpperCase();
    await notify.slack({ channelId, text: 'hello' });
    assert.deepEqual(await received(channelId), [{ channel: channelId, text: 'hello' }]);
    await failure(notify.slack({ channelId: 'C-nowhere', text: 'hello' }), 400, 'InputError');
    await failure(notify.slack({ channelId }), 400, 'InputValidationError');

    const roomId = `!${unique('room')}:example.com`;
    await notify.matrix({ roomId, body: 'hello', format: 'org.matrix.custom.html', formattedBody: '<b>hello</b>', msgtype: 'm.text' });
    assert.deepEqual(await received(roomId), [{ msgtype: 'm.text', body: 'hello' }]);
    await failure(notify.matrix({ roomId: '!nowhere:example.com', body: 'hello' }), 400, 'InputError');
    await failure(notify.matrix({ roomId, body: 'hello', msgtype: 'm.image' }), 400, 'InputValidationError');
  });

  test('a task tells of itself by its routes', async () => {
    const [address, channel, room] = [mail().address, unique('C').toUpperCase(), `!${unique('room')}:example.com`];
    const running = await runningTask({
      routes: [`notify.email.${address}.on-completed`, `notify.slack-channel.${channel}.on-resolved`, `notify.matrix-room.${room}.on-failed`],
      extra: { notify: { email: { subject: 'Task ${taskId} is over', content: 'It was `${task.metadata.name}`.' }, slackText: 'over: ${status.state}' } },
    });
    await running.queue.reportCompleted(running.taskId, 0);
    const [text] = await until('the channel is told', async () => {
      const messages = await received(channel);
      return messages.length > 0 && messages;
    });
    assert.equal(text.text, 'over: completed');
    const [letter] = await until('the address is told', async () => {
      const messages = await received(address);
      return messages.length > 0 && messages;
    });
    assert.match(letter.text, new RegExp(`Task ${running.taskId} is over`));
    assert.deepEqual(await received(room), []);
  });

  test('every method takes its scope', async () => {
    const poor = as(await withScopes(['official:nothing'])).notify;
    const address = { notificationType: 'pulse', notificationAddress: 'official' };
    await needs('notify:pulse:official.key', poor.pulse({ routingKey: 'official.key', message: {} }));
    await needs('notify:email:someone@example.com', poor.email(mail({ address: 'someone@example.com' })));
    await needs('notify:matrix-room:!room:example.com', poor.matrix({ roomId: '!room:example.com', body: 'hello' }));
    await needs('notify:slack-channel:C0FFEE', poor.slack({ channelId: 'C0FFEE', text: 'hello' }));
    await needs('notify:manage-denylist', poor.addDenylistAddress(address));
    await needs('notify:manage-denylist', poor.deleteDenylistAddress(address));
    await needs('notify:manage-denylist', poor.listDenylist());
    const enough = as(await withScopes(['notify:pulse:official.*'])).notify;
    await enough.pulse({ routingKey: `official.${unique('key')}`, message: {} });
  });
});
