"""Writes vectors.json: what mohawk, another implementation of Hawk, makes of
some requests. Run with: pip install mohawk && python3 vectors.py"""
import json, pathlib
from mohawk import Sender
from mohawk.base import Resource
from mohawk.bewit import get_bewit

KEYS = {
    "dh37fgj492je": "werxhqb98rpaxn39848xrunpaw3489ruxnpa98w4rxn",
    "static/taskcluster/root": "ag-mm5MmRuuBlYUTmhVvVwG2pXyrTk9cQtIbE4FLN0hA",
}
REQUESTS = [
    ("dh37fgj492je", "GET", "http://example.com:8000/resource/1?b=1&a=2", "", "", "some-app-ext-data"),
    ("dh37fgj492je", "POST", "http://example.com:8000/resource/1?b=1&a=2", "Thank you for flying Hawk", "text/plain", "some-app-ext-data"),
    ("static/taskcluster/root", "GET", "https://tc.example.com/api/queue/v1/ping", "", "", ""),
    ("static/taskcluster/root", "PUT", "https://TC.example.com/api/auth/v1/clients/a%2Fb", '{"x": "y"}', "Application/JSON; charset=utf-8", "e30="),
    ("static/taskcluster/root", "DELETE", "http://127.0.0.1:8080/api/auth/v1/roles/hook-id%3A*?a=", "", "", ""),
]

def vectors():
    for id, method, url, content, content_type, ext in REQUESTS:
        credentials = {"id": id, "key": KEYS[id], "algorithm": "sha256"}
        sent = Sender(credentials, url, method, content=content, content_type=content_type,
                      always_hash_content=bool(content), nonce="j4h3g2", ext=ext or None, _timestamp=1353832234)
        v = {"key": KEYS[id], "method": method, "url": url, "content": content, "contentType": content_type, "header": sent.request_header}
        if method == "GET":
            v["bewit"] = get_bewit(Resource(url=url, method="GET", credentials=credentials, timestamp=1356420707, nonce="", ext=ext))
        yield v

pathlib.Path(__file__).with_name("vectors.json").write_text(json.dumps(list(vectors()), indent=1) + "\n")
