"""Who may do what: clients, roles, temporary credentials, signed URLs. This client hashes what it sends."""

import json
import unittest
import urllib.parse

import mohawk
import requests
import taskcluster
import taskcluster.aio

from platform_under_test import ROOT, ROOT_URL, As, PlatformTest, anonymous, later, root, temporary, unique, with_scopes

SEE = "auth:current-scopes"
TESTER = {"clientId": "tester", "accessToken": "no-secret"}


def own(scopes):
    """The scopes that these tests give."""
    return sorted(scope for scope in scopes if scope.startswith(("official:", "test:")))


def current_scopes(credentials, **more):
    return As(credentials, **more).auth.currentScopes()["scopes"]


class Clients(PlatformTest):
    def test_the_root_client_may_do_everything(self):
        self.assertIn("*", current_scopes(ROOT))

    def test_a_client_lives_from_its_creation_to_its_deletion(self):
        client_id = "official/" + unique("life")
        definition = {"expires": later("1 hour"), "description": "a life", "scopes": [SEE, "official:a"]}
        token = root.auth.createClient(client_id, definition)["accessToken"]
        credentials = {"clientId": client_id, "accessToken": token}
        self.assertEqual(own(current_scopes(credentials)), ["official:a"])
        self.assertNotIn("accessToken", root.auth.client(client_id))
        with self.fails(409, "RequestConflict"):
            root.auth.createClient(client_id, {**definition, "description": "another"})

        root.auth.updateClient(client_id, {**definition, "scopes": [SEE, "official:b"]})
        self.assertEqual(own(current_scopes(credentials)), ["official:b"])
        root.auth.disableClient(client_id)
        with self.fails(401, "AuthenticationFailed"):
            current_scopes(credentials)
        root.auth.enableClient(client_id)
        renewed = {"clientId": client_id, "accessToken": root.auth.resetAccessToken(client_id)["accessToken"]}
        with self.fails(401, "AuthenticationFailed"):
            current_scopes(credentials)
        current_scopes(renewed)
        root.auth.deleteClient(client_id)
        with self.fails(401, "AuthenticationFailed"):
            current_scopes(renewed)
        with self.fails(404, "ResourceNotFound"):
            root.auth.client(client_id)

    def test_clients_are_listed_by_page(self):
        prefix = f"official/{unique('list')}/"
        for name in "abc":
            root.auth.createClient(prefix + name, {"expires": later("1 hour"), "description": "", "scopes": []})
        pages = []
        root.auth.listClients(query={"prefix": prefix}, paginationHandler=pages.append, paginationLimit=2)
        self.assertEqual(sorted(client["clientId"] for page in pages for client in page["clients"]), [prefix + name for name in "abc"])
        self.assertGreaterEqual(len(pages), 2)


class Roles(PlatformTest):
    def test_roles_are_expanded(self):
        role_id = unique("official-role")
        root.auth.createRole(role_id, {"description": "a role", "scopes": ["official:a"]})
        root.auth.createRole(role_id + ":*", {"description": "with a parameter", "scopes": ["official:read:<..>"]})
        expanded = root.auth.expandScopes({"scopes": [f"assume:{role_id}", f"assume:{role_id}:one"]})["scopes"]
        self.assertEqual(own(expanded), ["official:a", "official:read:one"])
        root.auth.updateRole(role_id, {"description": "changed", "scopes": ["official:b"]})
        self.assertEqual(root.auth.role(role_id)["scopes"], ["official:b"])
        self.assertIn(role_id, [role["roleId"] for role in root.auth.listRoles()])
        for method, key in [(root.auth.listRoleIds, "roleIds"), (root.auth.listRoles2, "roles")]:
            listed, count = self.pages(method, key=key, limit=2)
            self.assertIn(role_id, [one if key == "roleIds" else one["roleId"] for one in listed])
            self.assertGreaterEqual(count, 2)
        root.auth.deleteRole(role_id)
        with self.fails(404, "ResourceNotFound"):
            root.auth.role(role_id)

    def test_what_was_done_is_told(self):
        maker = with_scopes("auth:create-role:official-by-*", "auth:client-audit-history:*")
        role_ids = [unique("official-by") for _ in range(3)]
        for role_id in role_ids:
            As(maker).auth.createRole(role_id, {"description": "", "scopes": []})
        history, count = self.pages(root.auth.listAuditHistory, maker["clientId"], key="auditHistory", limit=2)
        self.assertEqual(([one["entityId"] for one in history], count), (role_ids, 2))
        [entry] = root.auth.getEntityHistory("role", role_ids[0])["auditHistory"]
        self.assertEqual((entry["clientId"], entry["actionType"]), (maker["clientId"], "created"))
        with self.needs("auth:audit-history:role"):
            As(maker).auth.getEntityHistory("role", role_ids[0])


class TemporaryCredentials(PlatformTest):
    def test_unnamed_and_named(self):
        name = "official/" + unique("named")
        issuer = with_scopes(SEE, "official:*", f"auth:create-client:{name}")
        for credentials, client_id in [(temporary(issuer, [SEE, "official:less"]), issuer["clientId"]),
                                       (temporary(issuer, [SEE, "official:less"], name=name), name)]:
            self.assertEqual(credentials["clientId"], client_id)
            self.assertEqual(own(current_scopes(credentials)), ["official:less"])
        with self.fails(401, "AuthenticationFailed"):
            current_scopes(temporary(issuer, [SEE], name="official/" + unique("not-allowed")))

    def test_they_hold_for_their_time_and_as_signed(self):
        issuer = with_scopes(SEE, "official:*")
        with self.fails(401, "AuthenticationFailed"):
            current_scopes(temporary(issuer, [SEE], start="-2 hours", expiry="-1 hour"))
        forged = temporary(issuer, [SEE])
        certificate = json.loads(forged["certificate"])
        certificate["scopes"].append("official:forged")
        with self.fails(401, "AuthenticationFailed"):
            current_scopes({**forged, "certificate": json.dumps(certificate)})
        with self.fails(401, "AuthenticationFailed"):
            current_scopes(temporary(issuer, [SEE, "other"]))

    def test_authorized_scopes(self):
        holder = with_scopes(SEE, "official:*")
        self.assertEqual(own(current_scopes(holder, authorizedScopes=[SEE, "official:less"])), ["official:less"])
        with self.fails(401, "AuthenticationFailed"):
            current_scopes(holder, authorizedScopes=[SEE, "other"])


class Requests(PlatformTest):
    def test_a_client_can_try_itself(self):
        tester = As(TESTER).auth
        answer = tester.testAuthenticate({"clientScopes": ["test:*"], "requiredScopes": ["test:scope"]})
        self.assertEqual(answer["clientId"], "tester")
        with self.fails(403, "InsufficientScopes"):
            tester.testAuthenticate({"clientScopes": ["test:*"], "requiredScopes": ["other"]})
        self.assertEqual(own(tester.testAuthenticateGet()["scopes"]), ["test:*"])

    def test_a_wrong_token_is_refused(self):
        with self.fails(401, "AuthenticationFailed"):
            current_scopes({**ROOT, "accessToken": "wrong"})
        with self.fails(401, "AuthenticationFailed"):
            current_scopes({"clientId": "official/nobody", "accessToken": "wrong"})

    def test_what_is_missing_is_listed(self):
        with self.fails(403, "InsufficientScopes") as caught:
            As(with_scopes("official:nothing")).auth.deleteRole("official-role")
        self.assertIn("auth:delete-role:official-role", str(caught.exception))

    def test_signed_urls(self):
        for credentials in (TESTER, temporary(TESTER, ["test:authenticate-get"])):
            url = As(credentials).auth.buildSignedUrl("testAuthenticateGet")
            self.assertEqual(requests.get(url).json()["clientId"], "tester")
        expired = As(TESTER).auth.buildSignedUrl("testAuthenticateGet", expiration=-60)
        self.assertEqual(requests.get(expired).status_code, 401)
        listing = root.auth.buildSignedUrl("listClients", query={"prefix": "official/"})
        self.assertEqual(requests.get(listing).status_code, 200)
        self.assertEqual(requests.get(listing.replace("official", "unofficial")).status_code, 401)

    def test_a_body_other_than_the_one_that_was_signed_is_refused(self):
        url = root.auth.buildUrl("expandScopes", payload={})

        def status(signed, sent):
            sender = mohawk.Sender(
                {"id": ROOT["clientId"], "key": ROOT["accessToken"], "algorithm": "sha256"},
                url, "POST", content=json.dumps(signed), content_type="application/json",
            )
            headers = {"Authorization": sender.request_header, "Content-Type": "application/json"}
            return requests.post(url, data=json.dumps(sent), headers=headers).status_code

        one, other = ({"scopes": [scope]} for scope in ("official:a", "official:b"))
        self.assertEqual(status(one, one), 200)
        self.assertEqual(status(one, other), 401)


    def test_one_service_asks_for_another(self):
        url = urllib.parse.urlsplit(root.auth.buildSignedUrl("currentScopes"))
        request = {"method": "get", "host": url.hostname, "port": url.port}
        answer = anonymous.auth.authenticateHawk({**request, "resource": f"{url.path}?{url.query}"})
        self.assertEqual((answer["status"], answer["clientId"]), ("auth-success", ROOT["clientId"]))
        self.assertEqual(anonymous.auth.authenticateHawk({**request, "resource": f"/other?{url.query}"})["status"], "auth-failed")


class Elsewhere(PlatformTest):
    """Credentials for accounts elsewhere take scopes, and the operator's configuration."""

    CALLS = {
        "awsS3Credentials": ("read-only", "another-bucket", "prefix/"),
        "gcpCredentials": ("project", "someone@example.com"),
        "githubRepoToken": ("app", "taskfleet", {"repositories": ["taskfleet"], "permissions": {"contents": "read"}}),
        "sentryDSN": ("project",),
    }

    def test_what_is_not_configured_is_said_to_be_missing(self):
        for method, args in self.CALLS.items():
            with self.subTest(method), self.fails(404, "ResourceNotFound") as caught:
                getattr(root.auth, method)(*args)
            self.assertRegex(str(caught.exception), r"\(auth\.\w+\)")

    def test_what_is_configured_is_lent(self):
        lent = root.auth.awsS3Credentials("read-only", "official", "some/prefix/")
        self.assertEqual(sorted(lent["credentials"]), ["accessKeyId", "secretAccessKey", "sessionToken"])
        role = root.auth.awsS3Credentials("read-only", "official", "some/prefix/", query={"format": "iam-role-compat"})
        self.assertEqual(role["Code"], "Success")
        tunnel = root.auth.websocktunnelToken("audience", "client")
        self.assertEqual((tunnel["wstAudience"], tunnel["wstClient"]), ("audience", "client"))

    def test_it_takes_scopes(self):
        poor = As(with_scopes("official:nothing")).auth
        with self.needs("auth:websocktunnel-token:audience/client"):
            poor.websocktunnelToken("audience", "client")
        for method, args in self.CALLS.items():
            with self.subTest(method), self.needs("auth:"):
                getattr(poor, method)(*args)


class Asynchronous(unittest.IsolatedAsyncioTestCase):
    async def test_the_asynchronous_client(self):
        async with taskcluster.aio.createSession() as session:
            auth = taskcluster.aio.Auth({"rootUrl": ROOT_URL, "credentials": dict(ROOT), "maxRetries": 0}, session=session)
            self.assertIn("*", (await auth.currentScopes())["scopes"])
            with self.assertRaises(taskcluster.exceptions.TaskclusterRestFailure) as caught:
                await auth.client("official/no-such-client")
            self.assertEqual(caught.exception.status_code, 404)


if __name__ == "__main__":
    unittest.main()
