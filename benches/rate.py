#!/usr/bin/env python3
"""How exact, how fair and how dear rate limits are: evring's proxy beside libevent's, in alternating runs.

Every connection sends (or receives) as fast as it is let; this program counts what comes out at the other end. The
proxy has a core to itself, clients and upstream share the other.

    cargo build --release && cargo build --release -p evring-peers
    benches/rate.py                                  # a group of 1 and of 30, both directions
    benches/rate.py --connections 1000 --nice -19
    benches/rate.py --own                            # the same rate for each connection instead of a group
    benches/rate.py --bytes 200                      # small writes

What a limit costs that does not bind is a matter for compare.py:

    benches/compare.py proxy64 --servers evring,limited \\
        --server "limited=target/release/evring proxy --limit-read 100GB --limit-write 100GB"
"""

import argparse
import contextlib
import os
import selectors
import socket
import statistics
import sys
import time
from pathlib import Path

from compare import Failure, machine, serving

# Connections in one listen queue at a time.
BATCH = 64
CONNECT_SECONDS = 10
CHUNK = 256 << 10
SAMPLE_SECONDS = 0.005


class Ends:
    """The clients of a proxy and the upstream behind it, in one loop."""

    def __init__(self, options):
        self.options = options
        self.selector = selectors.DefaultSelector()
        self.payload = memoryview(bytes(options.bytes or CHUNK))
        self.scratch = bytearray(CHUNK)
        self.received = {}
        self.sockets = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)

    def upstream(self):
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    def connect(self, address):
        host, _, port = address.rpartition(":")
        self.listener.settimeout(CONNECT_SECONDS)
        clients, upstreams = [], []
        while len(clients) < self.options.connections:
            for _ in range(min(BATCH, self.options.connections - len(clients))):
                clients.append(socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS))
            while len(upstreams) < len(clients):
                upstreams.append(self.listener.accept()[0])
        reads = self.options.direction == "read"
        senders, receivers = (clients, upstreams) if reads else (upstreams, clients)
        for sender in senders:
            sender.setblocking(False)
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(sender, selectors.EVENT_WRITE)
        for receiver in receivers:
            receiver.setblocking(False)
            self.received[receiver] = 0
            self.selector.register(receiver, selectors.EVENT_READ)
        self.sockets = clients + upstreams

    def run(self, seconds):
        """Moves bytes until so much time has passed; gives the bytes received by then, every few milliseconds."""
        began = time.monotonic()
        samples = []
        total = 0
        while (now := time.monotonic()) < began + seconds:
            if now >= began + SAMPLE_SECONDS * len(samples):
                samples.append((now - began, total))
            for key, events in self.selector.select(SAMPLE_SECONDS):
                if events & selectors.EVENT_WRITE:
                    with contextlib.suppress(BlockingIOError):
                        key.fileobj.send(self.payload)
                else:
                    n = key.fileobj.recv_into(self.scratch)
                    if n == 0:
                        raise Failure("the proxy closed a connection")
                    self.received[key.fileobj] += n
                    total += n
        return samples

    def close(self):
        for sock in [*self.sockets, self.listener]:
            sock.close()
        self.selector.close()


def cpu_seconds(pid):
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measure(command, options):
    """One run: rate error and fairness over the measured time, and the proxy's CPU time."""
    ends = Ends(options)
    try:
        command = [*command, "--listen", "127.0.0.1:0", "--upstream", ends.upstream(), "--tick", str(options.tick)]
        scope = "" if options.own else "group-"
        command += [f"--{scope}limit-{options.direction}", str(int(options.rate))]
        with serving(command, options.server_core, 0) as (pid, address):
            ends.connect(address)
            ends.run(options.warm_up)
            before, cpu = dict(ends.received), cpu_seconds(pid)
            samples = ends.run(options.seconds)
            cpu = cpu_seconds(pid) - cpu
            moved = [now - before[sock] for sock, now in ends.received.items()]
            # Closed first, so that the proxy has nothing left to flush at its limited rate.
            ends.close()
    finally:
        ends.close()
    total = sum(moved)
    if total == 0:
        raise Failure(f"{' '.join(command)}: nothing moved")
    expected = options.rate * (options.connections if options.own else 1)
    return {
        # The slope of a line through all samples: whether the time measured begins just before or just after a tick's
        # burst makes no difference to it.
        "error": statistics.linear_regression(*zip(*samples)).slope / expected - 1,
        "jain": total**2 / (len(moved) * sum(n * n for n in moved)),
        "cpu": cpu / (total / 1e6) * 1e6,
        "least": min(moved) * len(moved) / total,
    }


def report(name, runs):
    def median(key):
        return statistics.median(run[key] for run in runs)

    errors = sorted(run["error"] for run in runs)
    print(
        f"  {name:10} rate error {median('error'):+8.2%} ({errors[0]:+.2%} to {errors[-1]:+.2%})   "
        f"Jain {median('jain'):.4f} (lowest {min(run['jain'] for run in runs):.4f})   "
        f"least share {median('least'):4.0%}   CPU {median('cpu'):7.1f} µs/MB"
    )


def suite(options):
    proxies = {"evring": [str(options.evring), "proxy"], "libevent": [str(options.release / "libevent-proxy")]}
    runs = {name: [] for name in proxies}
    order = list(proxies)
    for _ in range(options.rounds):
        for name in order:
            runs[name].append(measure(proxies[name], options))
        order.reverse()
    scope = "each connection" if options.own else "a group"
    size = f"writes of {options.bytes} B" if options.bytes else "bulk"
    print(
        f"\n{scope}, {options.direction} at {options.rate / 1e6:g} MB/s, tick {options.tick} ms, "
        f"{options.connections} connections, {size}: {options.rounds} runs of {options.seconds:g} s, medians",
        flush=True,
    )
    for name, results in runs.items():
        report(name, results)
    sys.stdout.flush()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 30])
    parser.add_argument("--direction", nargs="+", choices=["read", "write"], default=["read", "write"], help="as the proxy sees its clients")
    parser.add_argument("--rate", type=float, default=20e6, help="bytes a second (default 20e6)")
    parser.add_argument("--tick", type=int, default=100, metavar="MS", help="default 100; a tick's bytes are lost when the machine keeps a proxy waiting for longer")
    parser.add_argument("--bytes", type=int, default=0, help="bytes of one write of a sender (default: as many as go in)")
    parser.add_argument("--own", action="store_true", help="limit each connection instead of all together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="priority of everything measured; below 0 needs root")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parent.parent / "target"))
    parser.add_argument("--release", type=Path, default=target / "release", help="where the peers were built")
    parser.add_argument("--evring", type=Path, help="the evring binary (default: with the peers)")
    options = parser.parse_args()
    options.evring = options.evring or options.release / "evring"
    return options


def main():
    options = parse_arguments()
    about = machine()
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, load average {about['load_average']:.2f}")
    os.sched_setaffinity(0, {options.load_core})
    os.nice(options.nice)
    try:
        for direction in options.direction:
            for connections in options.connections:
                suite(argparse.Namespace(**{**vars(options), "direction": direction, "connections": connections}))
    except Failure as failure:
        print(f"rate: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
