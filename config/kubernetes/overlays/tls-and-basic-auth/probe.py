"""The probes of the kubelet, which can neither send a password from a Secret nor read one from a file.

Asks the agent for the path that is the only argument, and ends with 0 when the answer is 200.
"""

import base64
import ssl
import sys
from http.client import HTTPSConnection
from pathlib import Path

SECRET = Path(__file__).parent

credentials = b":".join((SECRET / name).read_bytes() for name in ("username", "password"))
# The certificate is for the name by which Prometheus knows the agent. This connection does not leave the pod.
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
connection = HTTPSConnection("127.0.0.1", 10943, timeout=8, context=context)
connection.request("GET", sys.argv[1], headers={"Authorization": "Basic " + base64.b64encode(credentials).decode()})
sys.exit(connection.getresponse().status != 200)
