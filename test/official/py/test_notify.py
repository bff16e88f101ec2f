"""Messages to people and on the exchange, and those who want none."""

import unittest

from platform_under_test import As, PlatformTest, received, root, unique, with_scopes

notify = root.notify


class Notify(PlatformTest):
    def test_who_is_on_the_denylist_gets_nothing(self):
        topic = unique("official-python")
        address = {"notificationType": "pulse", "notificationAddress": topic}
        notify.addDenylistAddress(address)
        with self.fails(400, "DenylistedAddress"):
            notify.pulse({"routingKey": topic, "message": {}})
        addresses, _ = self.pages(notify.listDenylist, key="addresses", limit=1)
        self.assertIn(address, addresses)
        notify.deleteDenylistAddress(address)
        notify.pulse({"routingKey": topic, "message": {}})

    def test_people_are_written_to(self):
        address = unique("someone").lower() + "@example.com"
        message = {"address": address, "subject": "Something happened", "content": "It is *done*.", "template": "fullscreen"}
        notify.email(message)
        notify.email(message)
        [mail] = received(address)
        self.assertIn("Subject: Something happened", mail["text"])
        with self.fails(400, "InputError"):
            notify.email({**message, "address": "nowhere@example.com"})

        channel, room = unique("C").upper(), f"!{unique('room')}:example.com"
        notify.slack({"channelId": channel, "text": "hello"})
        notify.matrix({"roomId": room, "body": "hello"})
        self.assertEqual(received(channel), [{"channel": channel, "text": "hello"}])
        self.assertEqual(received(room), [{"msgtype": "m.notice", "body": "hello"}])

    def test_it_takes_scopes(self):
        poor = As(with_scopes("official:nothing")).notify
        for scope, call in [
            ("notify:pulse:official", lambda: poor.pulse({"routingKey": "official", "message": {}})),
            ("notify:email:someone@example.com", lambda: poor.email({"address": "someone@example.com", "subject": "s", "content": "c"})),
            ("notify:matrix-room:!room:example.com", lambda: poor.matrix({"roomId": "!room:example.com", "body": "hello"})),
            ("notify:slack-channel:C0FFEE", lambda: poor.slack({"channelId": "C0FFEE", "text": "hello"})),
            ("notify:manage-denylist", poor.listDenylist),
        ]:
            with self.needs(scope):
                call()


if __name__ == "__main__":
    unittest.main()
