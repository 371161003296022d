#!/usr/bin/env python3
"""What peers that do not read cost the others of `evring proxy` or `evring echo`.

    benches/deaf_peers.py proxy 2000                    downloads that their clients do not read
    benches/deaf_peers.py upload 2000                   uploads that the upstream does not read
    benches/deaf_peers.py echo 1500 --memory 16M        what follows goes to evring

200 others send 64 bytes at a time and wait for the answer, before the deaf ones come, beside them,
and after their resets. EVRING names the program (target/release/evring).
"""
import os, re, resource, selectors, socket, struct, subprocess, sys, time

OTHERS, ROUNDS = 200, 20


def upstream(listener):
    """Sends for ever (S), reads no more (H) or echoes, by the first byte of a connection."""
    select, kinds, deaf, chunk = selectors.DefaultSelector(), {}, [], bytes(65536)
    listener.setblocking(False)
    select.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in select.select():
            if key.fileobj is listener:
                new, _ = listener.accept()
                new.setblocking(False)
                select.register(new, selectors.EVENT_READ)
                continue
            peer, kind = key.fileobj, kinds.get(key.fd)
            try:
                if kind is None:
                    kinds[key.fd] = kind = peer.recv(1)
                    if kind == b"S":
                        select.modify(peer, selectors.EVENT_WRITE)
                    elif kind == b"H":
                        select.unregister(peer)
                        deaf.append(peer)
                elif kind == b"S":
                    peer.send(chunk)
                    continue
                else:
                    kind = peer.recv(65536)
                    peer.send(kind)
            except BlockingIOError:
                continue
            except OSError:
                kind = b""
            if not kind:
                kinds.pop(key.fd, None)
                select.unregister(peer)
                peer.close()


def connect(port, first=b"", receive_buffer=None):
    peer = socket.socket()
    if receive_buffer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.settimeout(10)
    peer.connect(("127.0.0.1", port))
    peer.send(first)
    return peer


def ping(others, when, pid):
    times, failed = [], 0
    for other in others * ROUNDS:
        began = time.monotonic()
        try:
            other.sendall(b"p" * 64)
            left = 64
            while left:
                left -= len(other.recv(left)) or left + 1
            times.append((time.monotonic() - began) * 1e3)
        except OSError:
            failed += 1
    times.sort()
    status = open(f"/proc/{pid}/status").read()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
    half, most = times[len(times) // 2], times[len(times) * 99 // 100]
    print(f"{when:7} {len(times)} answered, {failed} not; p50 {half:.3f} p99 {most:.3f} "
          f"max {times[-1]:.2f} ms; {resident:.1f} MiB, {len(os.listdir(f'/proc/{pid}/fd'))} fds")


def main():
    kind, deaf, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    child = os.fork()
    if child == 0:
        upstream(listener)
    command = [os.environ.get("EVRING", "target/release/evring"), "echo", "--listen", "127.0.0.1:0"]
    if kind != "echo":
        command[1:2] = ["proxy", "--upstream", f"127.0.0.1:{listener.getsockname()[1]}"]
    server = subprocess.Popen(command + options, stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        others = [connect(port, b"" if kind == "echo" else b"G") for _ in range(OTHERS)]
        ping(others, "before", server.pid)
        peers = []
        for number in range(deaf):
            peers.append(connect(port, {"proxy": b"S", "upload": b"H"}.get(kind, b""), 4096))
            peers[-1].setblocking(False)
            if number % 100 == 99:
                time.sleep(0.1)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            for peer in peers if kind != "proxy" else []:
                try:
                    peer.send(bytes(65536))
                except OSError:
                    pass
            time.sleep(0.01)
        ping(others, "beside", server.pid)
        for peer in peers:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        time.sleep(8)
        ping(others, "after", server.pid)
    finally:
        server.kill()
        os.kill(child, 9)


main()
