"""Opens many connections to an echo server at once, asks each for an echo, and closes them.

Prints how many were answered. Not all need to be: the server is short of descriptors.
"""
import errno
import resource
import selectors
import socket
import sys
import time

host, port, attempts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
at_once = attempts if hard == resource.RLIM_INFINITY else min(attempts, hard - 64)

answered = 0
while attempts > 0:
    batch = min(at_once, attempts)
    attempts -= batch
    poll = selectors.DefaultSelector()
    peers = set()
    for _ in range(batch):
        peer = socket.socket()
        peer.setblocking(False)
        error = peer.connect_ex((host, port))
        if error not in (0, errno.EINPROGRESS):
            peer.close()
            continue
        peers.add(peer)
        poll.register(peer, selectors.EVENT_WRITE)
    # Until nothing new has happened for a while.
    quiet_since = time.monotonic()
    while peers and time.monotonic() - quiet_since < 2:
        for key, events in poll.select(timeout=0.2):
            peer = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    peer.send(b"ping")
                    poll.modify(peer, selectors.EVENT_READ)
                    continue
                answer = peer.recv(16)
                poll.unregister(peer)
                if answer == b"ping":
                    answered += 1
                    quiet_since = time.monotonic()
                    continue
            except OSError:
                poll.unregister(peer)
            peers.discard(peer)
            peer.close()
    for peer in peers:
        peer.close()
print(answered)
