"""Hooks create tasks: when somebody asks for it, when it is time, and when there is a message."""

import unittest

from platform_under_test import As, PlatformTest, anonymous, found, root, unique, until, with_scopes

hooks = root.hooks


def definition(**more):
    return {
        "metadata": {"name": "a hook", "description": "", "owner": "nobody@example.com", "emailOnError": False},
        "task": {
            "taskQueueId": "official/python-hooks",
            "payload": {"by": "${firedBy}"},
            "metadata": {"name": "from a hook", "description": "", "owner": "nobody@example.com", "source": "https://example.com/suite"},
        },
        "triggerSchema": {"type": "object", "properties": {"color": {"type": "string"}}, "additionalProperties": False},
        **more,
    }


def create_hook(**more):
    """A hook with the role that its tasks need."""
    group = unique("official-python")
    root.auth.createRole(f"hook-id:{group}/h", {
        "description": "of a hook of the official-client suite",
        "scopes": ["queue:create-task:lowest:official/python-hooks", "queue:create-task:project:none", "queue:scheduler-id:-"],
    })
    hooks.createHook(group, "h", definition(**more))
    return group, "h"


def fire(hook):
    """The latest fire of a hook, once there is one."""
    return until("the hook is fired", lambda: found(hooks.listLastFires, *hook))["lastFires"][0]


class Hooks(PlatformTest):
    def test_a_hook_lives_from_its_creation_to_its_removal(self):
        hook = create_hook()
        created = hooks.hook(*hook)
        self.assertEqual((created["bindings"], created["schedule"], created["task"]), ([], [], definition()["task"]))
        self.assertEqual(hooks.createHook(*hook, definition()), created)
        with self.fails(409, "RequestConflict"):
            hooks.createHook(*hook, definition(schedule=["0 0 3 * * *"]))
        updated = hooks.updateHook(*hook, definition(schedule=["0 0 3 * * *"]))
        self.assertEqual(hooks.listHooks(hook[0]), {"hooks": [updated]})
        self.assertIn(hook[0], hooks.listHookGroups()["groups"])
        status = hooks.getHookStatus(*hook)
        self.assertEqual(status["lastFire"], {"result": "no-fire"})
        self.assertIn("T03:00:00", status["nextScheduledDate"])
        hooks.removeHook(*hook)
        for method in (hooks.hook, hooks.getHookStatus, hooks.getTriggerToken, hooks.listLastFires):
            with self.fails(404, "ResourceNotFound"):
                method(*hook)

    def test_calls_and_tokens_fire_it(self):
        hook = create_hook()
        first = hooks.triggerHook(*hook, {"color": "red"})["taskId"]
        self.assertEqual(root.queue.task(first)["payload"], {"by": "triggerHook"})
        with self.fails(400, "InputError"):
            hooks.triggerHook(*hook, {"colour": "red"})
        token = hooks.getTriggerToken(*hook)["token"]
        second = anonymous.hooks.triggerHookWithToken(*hook, token, {})["taskId"]
        self.assertEqual(root.queue.task(second)["payload"], {"by": "triggerHookWithToken"})
        self.assertNotEqual(hooks.resetTriggerToken(*hook)["token"], token)
        with self.fails(401, "AuthenticationFailed"):
            anonymous.hooks.triggerHookWithToken(*hook, token, {})
        fires, count = self.pages(hooks.listLastFires, *hook, key="lastFires", limit=1)
        self.assertEqual(([one["taskId"] for one in fires], count), ([second, first], 2))

    def test_the_clock_fires_it(self):
        hook = create_hook(schedule=["* * * * * *"])
        fired = fire(hook)
        self.assertEqual((fired["firedBy"], fired["result"], fired["error"]), ("schedule", "success", ""))
        self.assertEqual(root.queue.task(fired["taskId"])["payload"], {"by": "schedule"})
        hooks.removeHook(*hook)

    def test_a_message_fires_it(self):
        topic = unique("official")
        hook = create_hook(
            bindings=[{"exchange": "exchange/taskcluster-notify/v1/notification", "routingKeyPattern": f"primary.{topic}"}],
            triggerSchema={"type": "object"},
        )
        root.notify.pulse({"routingKey": topic, "message": {}})
        self.assertEqual(root.queue.task(fire(hook)["taskId"])["payload"], {"by": "pulseMessage"})
        hooks.removeHook(*hook)

    def test_it_takes_scopes(self):
        hook = create_hook()
        poor = As(with_scopes("official:nothing")).hooks
        for scope, call in [
            (f"hooks:modify-hook:{hook[0]}/h", lambda: poor.updateHook(*hook, definition())),
            (f"hooks:trigger-hook:{hook[0]}/h", lambda: poor.triggerHook(*hook, {})),
            (f"hooks:get-trigger-token:{hook[0]}/h", lambda: poor.getTriggerToken(*hook)),
        ]:
            with self.needs(scope):
                call()


if __name__ == "__main__":
    unittest.main()
