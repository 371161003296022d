"""`get URL` prints the SHA-256 of what comes; `put URL FILE` prints the answer."""
import hashlib
import os
import sys
import urllib.request

if sys.argv[1] == "get":
    digest = hashlib.sha256()
    with urllib.request.urlopen(sys.argv[2], timeout=60) as answer:
        while chunk := answer.read(1 << 20):
            digest.update(chunk)
    print(digest.hexdigest())
else:
    with open(sys.argv[3], "rb") as body:
        length = str(os.fstat(body.fileno()).st_size)
        request = urllib.request.Request(
            sys.argv[2], data=body, method="PUT", headers={"Content-Length": length}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            print(answer.read().decode())
