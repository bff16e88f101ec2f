"""Writes vectors.json: what the Python client of Taskcluster makes of some
credentials. Run with: pip install taskcluster && python3 vectors.py"""
import base64, datetime, json, pathlib
import mohawk, mohawk.util, taskcluster
from taskcluster import client, utils

ISSUER = {"clientId": "static/taskcluster/queue", "accessToken": "u8FzQ6vQTiSvpd0YfAmiBwG2pXyrTk9cQtIbE4FLN0hA"}
SEED = "VMxKlcVxTDyPoOYBxIhZ5A"
START = datetime.datetime(2016, 5, 11, 9, 30, tzinfo=datetime.timezone.utc)
CASES = [
    ([], None),
    (["queue:create-task:*"], None),
    (["assume:worker:a b", "scope two", 'quote"and<angle>'], None),
    (["queue:reclaim-task:VMxKlcVxTDyPoOYBxIhZ5A/0", "*"], "task-client/VMxKlcVxTDyPoOYBxIhZ5A/0/on/g/w/until/1462959000"),
]
utils.slugId = lambda: SEED

def text(s):
    return s.decode() if isinstance(s, bytes) else s

def vectors():
    for scopes, name in CASES:
        c = client.createTemporaryCredentials(ISSUER["clientId"], ISSUER["accessToken"], START,
                                              START + datetime.timedelta(hours=1), scopes, name=name)
        c = {k: text(v) for k, v in c.items()}
        queue = taskcluster.Queue({"rootUrl": "https://tc.example.com", "credentials": dict(c), "authorizedScopes": ["x:*"]})
        ext = text(queue.makeHawkExt())
        yield {"scopes": scopes, "name": name or "", "credentials": c, "ext": ext}

pathlib.Path(__file__).with_name("vectors.json").write_text(json.dumps(
    {"issuer": ISSUER, "seed": SEED + SEED, "start": int(START.timestamp() * 1000), "vectors": list(vectors())}, indent=1) + "\n")
