"""Drives boto3 for the tests: one JSON request a line on standard input, one JSON answer a line on standard output.

    {"service": "ecs", "operation": "CreateCluster", "params": {...}}    a call by boto3
    {"raw": {"service", "method", "path", "headers", "body", ...}}       a request of any form, signed by botocore

Bytes are {"$bytes": "<base64>"} both ways, times are seconds since the Unix epoch. Parameters are not checked on this
side, so that the endpoint's own checks are what a test sees.
"""

import base64
import datetime
import json
import os
import sys
import urllib.parse

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.httpsession

ENDPOINT = os.environ["DRIVER_ENDPOINT"]
CA_FILE = os.environ["DRIVER_CA_FILE"]
REGION = os.environ["DRIVER_REGION"]
CREDENTIALS = {
    "access_key_id": os.environ["DRIVER_ACCESS_KEY_ID"],
    "secret_access_key": os.environ["DRIVER_SECRET_ACCESS_KEY"],
    "clock_offset_s": 0,
}

clock_offset_s = 0
clients = {}


def now(remove_tzinfo=True):
    time = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=clock_offset_s)
    return time.replace(tzinfo=None) if remove_tzinfo else time


# The one clock that botocore's signers read; a version without it fails loudly here.
assert hasattr(botocore.auth, "get_current_datetime")
botocore.auth.get_current_datetime = now


def client(service, who):
    key = (service, who["access_key_id"], who["secret_access_key"])
    if key not in clients:
        clients[key] = boto3.client(
            service,
            endpoint_url=ENDPOINT,
            region_name=REGION,
            verify=CA_FILE,
            aws_access_key_id=who["access_key_id"],
            aws_secret_access_key=who["secret_access_key"],
            config=botocore.config.Config(
                parameter_validation=False,
                inject_host_prefix=False,
                connect_timeout=5,
                read_timeout=60,
                retries={"total_max_attempts": 1},
            ),
        )
    return clients[key]


def thaw(value):
    if isinstance(value, dict):
        if set(value) == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {key: thaw(held) for key, held in value.items()}
    if isinstance(value, list):
        return [thaw(held) for held in value]
    return value


def freeze(value):
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    if hasattr(value, "read"):
        value = value.read()
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: freeze(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [freeze(held) for held in value]
    return value


def call(request, who):
    try:
        made = client(request["service"], who)
        answer = made._make_api_call(request["operation"], thaw(request.get("params") or {}))
    except botocore.exceptions.ClientError as error:
        said = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return {"error": {"code": said.get("Code", ""), "message": said.get("Message", ""), "status": status}}
    answer.pop("ResponseMetadata", None)
    return {"ok": freeze(answer)}


def raw(request, who):
    body = base64.b64decode(request["body"]["$bytes"]) if isinstance(request.get("body"), dict) else request.get("body", "").encode()
    made = botocore.awsrequest.AWSRequest(
        request["method"], ENDPOINT + request["path"], headers=request.get("headers", {}), data=body
    )
    credentials = botocore.credentials.Credentials(who["access_key_id"], who["secret_access_key"])
    how = request.get("sign", "header")
    region = request.get("region", REGION)
    if how == "header":
        botocore.auth.SigV4Auth(credentials, request["service"], region).add_auth(made)
    elif how == "query":
        botocore.auth.SigV4QueryAuth(credentials, request["service"], region, expires=request.get("expires_s", 60)).add_auth(made)
    for name, value in request.get("after_signing", {}).items():
        del made.headers[name]
        if value is not None:
            made.headers[name] = value
    prepared = made.prepare()
    if "body_after_signing" in request:
        prepared.body = request["body_after_signing"].encode()
        prepared.headers["Content-Length"] = str(len(prepared.body))
    session = botocore.httpsession.URLLib3Session(verify=CA_FILE, timeout=30)
    answer = session.send(prepared)
    text = answer.content.decode("utf-8", "replace")
    return {"ok": {"status": answer.status_code, "headers": {k.lower(): v for k, v in answer.headers.items()}, "body": text}}


def serve():
    global clock_offset_s
    for line in sys.stdin:
        try:
            request = json.loads(line)
            who = {**CREDENTIALS, **request.get("who", {})}
            clock_offset_s = who["clock_offset_s"]
            answer = raw(request["raw"], who) if "raw" in request else call(request, who)
        except Exception as error:  # The test decides what a broken call means, not this process.
            answer = {"error": {"code": type(error).__name__, "message": str(error), "status": 0}}
        print(json.dumps(answer), flush=True)


serve()
