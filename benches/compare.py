#!/usr/bin/env python3
"""Interleaved comparison of evring with its peers on this machine.

Server and load generator run on a core each (a proxy's upstream on the load generator's). The servers take
turns, A B C, C B A, ..., because a machine drifts more within minutes than the servers differ; only the ratios
of runs in the same round are compared. A difference that the rounds do not agree on is not called one.

    cargo build --release && cargo build --release -p evring-peers
    benches/compare.py echo64                        # evring and every peer of the suite
    benches/compare.py echo16k --servers floor,libevent --rounds 60
    benches/compare.py echo64 --servers floor,again --server again=target/release/floor-echo    # how much is noise
    benches/compare.py all --json > comparison.json

Many short rounds say more than few long ones: the defaults tell servers apart that differ by 2 to 3 % on a quiet
machine. Everything is on the loopback, every run is bounded in time, every byte that comes back is checked.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A difference smaller than this is not called one, whatever the rounds say: code placement alone can make it.
SMALLEST_DIFFERENCE = 0.01
# How sure the interval of the median ratio is meant to be.
CONFIDENCE = 0.95
# A run in which the server, or the load generator where it has its core to itself, had to wait that share of the time
# for its core was disturbed by something else, and is made again, so many times at most.
DISTURBED = 0.03
TRIES = 4
# Rounds with a run that stayed disturbed do not count. With fewer others than this nothing can be said.
FEWEST_ROUNDS = 6
READY_SECONDS = 10
STOP_SECONDS = 10
# Beyond the time asked for, a load run may take this long to connect, to drain and to report.
LOAD_GRACE_SECONDS = 30


@dataclass
class Suite:
    """A kind of work, the servers that do it, and the ratios of evring to them that the project wants at most."""

    kind: str
    size: int
    connections: int
    depth: int = 1
    metric: str = "cpu_us"
    spin: bool = False
    # Thousands of connections take longer to settle.
    time_factor: float = 1
    goals: dict = field(default_factory=dict)


SUITES = {
    "echo64": Suite("echo", 64, 64, goals={"libevent": 0.62, "tokio": 0.95, "floor": 1.03}),
    "echo16k": Suite("echo", 16384, 64, goals={"libevent": 0.20, "epoll": 1.03, "floor": 1.03}),
    "echo64x9000": Suite("echo", 64, 9000, time_factor=2, goals={"libevent": 0.62, "epoll": 0.92, "floor": 1.05}),
    "proxy64": Suite("proxy", 64, 64, goals={"libevent": 0.58, "floor": 1.03}),
    "proxy16k": Suite("proxy", 16384, 64, goals={"libevent": 0.26, "floor": 1.03}),
    "pingpong": Suite("echo", 64, 1, metric="p50_us", spin=True, goals={"libevent": 0.33}),
    "pingpong-proxy": Suite("proxy", 64, 1, metric="p50_us", spin=True, goals={"libevent": 0.36}),
}

# What is printed of each run: key, heading, format, whether less is better.
METRICS = {
    "cpu_us": ("CPU µs/msg", "{:.2f}", True),
    "rate": ("messages/s", "{:,.0f}", False),
    "p50_us": ("p50 µs", "{:.1f}", True),
    "p99_us": ("p99 µs", "{:.1f}", True),
    "p999_us": ("p99.9 µs", "{:.1f}", True),
}

# Servers that can spin do so in the ping-pong suites; libevent and tokio cannot.
SPINNING = {"evring", "floor", "epoll"}


class Failure(Exception):
    """Something about the comparison itself does not work; the message says what."""


def commands(kind, release, evring):
    """Every server of `kind`: name -> command line without --listen."""
    peers = {
        "echo": {
            "floor": "floor-echo",
            "libevent": "libevent-echo",
            "epoll": "epoll-echo",
            "tokio": "tokio-echo",
        },
        "proxy": {"floor": "floor-proxy", "libevent": "libevent-proxy"},
    }[kind]
    found = {"evring": [str(evring), kind]}
    found.update({name: [str(release / binary)] for name, binary in peers.items()})
    return found


def pinned(core, nice):
    """A preexec_fn: that core only, and a session of its own so that a terminal's ^C reaches us first."""

    def run():
        os.setsid()
        os.sched_setaffinity(0, {core})
        if nice:
            os.nice(nice)
            # The scheduler weighs sessions against each other first, where it groups by them.
            with contextlib.suppress(FileNotFoundError):
                Path("/proc/self/autogroup").write_text(str(nice))

    return run


@contextlib.contextmanager
def serving(command, core, nice):
    """Starts a server, yields (pid, address) once it listens, ends it with SIGTERM and insists on exit code 0."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(core, nice),
    )
    watchdog = threading.Timer(READY_SECONDS, process.kill)
    try:
        watchdog.start()
        address = None
        for line in process.stdout:
            if line.startswith("listening on "):
                address = line.split()[2]
                break
        watchdog.cancel()
        if address is None:
            code = process.wait(STOP_SECONDS)
            said = process.stderr.read().strip()
            raise Failure(f"{' '.join(command)}: did not start (exit code {code}): {said}")
        # What the server prints from here on must not fill the pipe and stop it.
        drains = [
            threading.Thread(target=stream.read, daemon=True)
            for stream in (process.stdout, process.stderr)
        ]
        for drain in drains:
            drain.start()
        yield process.pid, address
        if process.poll() is not None:
            raise Failure(f"{' '.join(command)}: ended by itself with code {process.returncode}")
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(command)}: still runs {STOP_SECONDS} s after SIGTERM") from None
        if code != 0:
            raise Failure(f"{' '.join(command)}: exit code {code} after SIGTERM")
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()


def measure(suite, command, spin, options):
    """One run of one server, made again if something else disturbed it; a dict of METRICS."""
    for _ in range(TRIES):
        run = measure_once(suite, command, spin, options)
        if not run["disturbed"]:
            break
    return run


def measure_once(suite, command, spin, options):
    with contextlib.ExitStack() as stack:
        command = command + ["--listen", "127.0.0.1:0"]
        if suite.kind == "proxy":
            upstream = [str(options.release / "epoll-echo")]
            _, address = stack.enter_context(serving(upstream, options.load_core, options.nice))
            command += ["--upstream", address]
        if spin:
            command.append("--spin")
        pid, address = stack.enter_context(serving(command, options.server_core, options.nice))
        load = [str(options.release / "peer-load"), "--json", "--connect", address]
        load += ["--server-pid", str(pid), "--connections", str(suite.connections)]
        load += ["--size", str(suite.size), "--depth", str(suite.depth)]
        seconds, warm_up = options.seconds * suite.time_factor, options.warm_up * suite.time_factor
        load += ["--seconds", str(seconds), "--warm-up", str(warm_up)]
        try:
            ran = subprocess.run(
                load,
                capture_output=True,
                text=True,
                timeout=seconds + warm_up + LOAD_GRACE_SECONDS,
                preexec_fn=pinned(options.load_core, options.nice),
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(command)}: the load generator did not finish") from None
        if ran.returncode != 0:
            raise Failure(f"{' '.join(command)}: {ran.stderr.strip()}")
    report = json.loads(ran.stdout)
    server, load = report["server_cpu"], report["load_cpu"]
    if not report["messages"] or not server or not load:
        raise Failure(f"{' '.join(command)}: nothing was measured")
    return {
        "cpu_us": server["us_per_message"],
        "rate": report["messages_per_s"],
        "p50_us": report["latency_us"]["p50"],
        "p99_us": report["latency_us"]["p99"],
        "p999_us": report["latency_us"]["p99.9"],
        "server_busy": server["busy"],
        "load_busy": load["busy"],
        # A proxy's load generator shares its core with the upstream: it always waits.
        "disturbed": max(server["kept_waiting"], load["kept_waiting"] if suite.kind == "echo" else 0) > DISTURBED,
    }


def median_interval(values):
    """An interval that holds the true median with CONFIDENCE: order statistics, no assumption on the distribution.

    Gives (low, high, sure): `sure` is False when there are too few values for that confidence even from the
    smallest to the largest, which is what is given then.
    """
    ordered = sorted(values)
    count = len(ordered)
    below = 0.0  # P(fewer than `cut + 1` values lie below the median)
    cut = 0
    while cut < count // 2:
        below += math.comb(count, cut) / 2**count
        if 1 - 2 * below < CONFIDENCE:
            break
        cut += 1
    if cut == 0:
        return ordered[0], ordered[-1], False
    return ordered[cut - 1], ordered[count - cut], True


def compare(first, second, metric):
    """The ratio first/second of each round, its median and interval, and what can be said of it."""
    rounds = list(zip(first, second, strict=True))
    undisturbed = [(a, b) for a, b in rounds if not a["disturbed"] and not b["disturbed"]]
    too_busy = len(undisturbed) < FEWEST_ROUNDS and len(undisturbed) < len(rounds)
    if not too_busy:
        rounds = undisturbed
    ratios = [a[metric] / b[metric] for a, b in rounds]
    low, high, sure = median_interval(ratios)
    median = statistics.median(ratios)
    apart = (low > 1 or high < 1) and abs(median - 1) >= SMALLEST_DIFFERENCE
    less_is_better = METRICS[metric][2]
    if too_busy:
        verdict = "the machine was too busy to say"
    elif not sure:
        verdict = "too few rounds to say"
    elif not apart:
        verdict = "no difference beyond the noise"
    else:
        verdict = "better" if (median < 1) == less_is_better else "worse"
    return {
        "ratios": ratios,
        "sure": sure and not too_busy,
        "median": median,
        "low": low,
        "high": high,
        "min": min(ratios),
        "max": max(ratios),
        "verdict": verdict,
    }


def run_suite(name, suite, options):
    """All rounds of a suite; the result for the report."""
    servers = select(suite, options)
    runs = {server: [] for server in servers}
    order = list(servers)
    # Round 0 warms up the machine (frequency, page cache, slab caches) and is thrown away.
    for round_number in range(options.rounds + 1):
        for server in order:
            progress(f"{name}: round {round_number} of {options.rounds}, {server}")
            spin = suite.spin and server in SPINNING
            run = measure(suite, servers[server], spin, options)
            if round_number > 0:
                runs[server].append(run)
        order.reverse()
    progress("")
    subject = order_of(servers)[0]
    ratios = {
        other: {metric: compare(runs[subject], runs[other], metric) for metric in METRICS}
        for other in servers
        if other != subject
    }
    return {"suite": name, "subject": subject, "runs": runs, "ratios": ratios}


def order_of(servers):
    """The server that the others are baselines of comes first: evring, or else the first named."""
    return sorted(servers, key=lambda server: server != "evring")


def select(suite, options):
    """The servers to run: those asked for, or all that are built."""
    known = commands(suite.kind, options.release, options.evring)
    known.update({name: command.split() for name, command in options.server})
    if options.servers:
        missing = [server for server in options.servers if server not in known]
        if missing:
            raise Failure(f"no {suite.kind} server is called {', '.join(missing)}; there are {', '.join(known)}")
        known = {server: known[server] for server in options.servers}
    for server, command in list(known.items()):
        if not Path(command[0]).exists():
            if options.servers:
                raise Failure(f"{server}: {command[0]} is not there; build it first")
            del known[server]
            note(f"{server} is left out: {command[0]} is not built")
        elif reason := unusable(command[0]):
            if options.servers:
                raise Failure(f"{server}: {reason}")
            del known[server]
            note(f"{server} is left out: {reason}")
    if len(known) < 2:
        raise Failure("a comparison needs two servers")
    return known


def unusable(binary):
    """Why a peer that is built cannot be used (libevent's peers without libevent), or None."""
    if not Path(binary).name.startswith("libevent-"):
        return None
    probe = [binary, "--listen", "127.0.0.1:0"]
    if binary.endswith("-proxy"):
        probe += ["--upstream", "127.0.0.1:9"]
    process = subprocess.Popen(probe, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(READY_SECONDS, process.kill)
    watchdog.start()
    ready = process.stdout.readline().startswith("listening on ")
    watchdog.cancel()
    process.terminate()
    said = process.communicate()[1].strip()
    return None if ready else said or "it does not start"


def print_suite(result, suite, options):
    subject = result["subject"]
    print(
        f"\n{result['suite']}: {suite.kind}, {suite.size} B × {suite.connections} connections, depth {suite.depth}, "
        f"{options.rounds} rounds of {options.seconds * suite.time_factor:g} s; medians"
    )
    disturbed = sum(run["disturbed"] for runs in result["runs"].values() for run in runs)
    if disturbed:
        print(f"  {disturbed} runs were disturbed by something else on their cores ({TRIES} tries each)")
    headings = [heading for heading, _, _ in METRICS.values()]
    print(f"  {'':12}" + "".join(f"{heading:>13}" for heading in headings) + f"{'server busy':>13}{'load busy':>11}")
    for server in order_of(result["runs"]):
        runs = result["runs"][server]
        spins = " (spins)" if suite.spin and server in SPINNING else ""
        cells = "".join(
            f"{form.format(statistics.median(run[metric] for run in runs)):>13}"
            for metric, (_, form, _) in METRICS.items()
        )
        busy = "".join(
            f"{statistics.median(run[key] for run in runs):>{width}.0%}"
            for key, width in (("server_busy", 13), ("load_busy", 11))
        )
        print(f"  {server:12}{cells}{busy}{spins}")
    print(f"  {subject} as a ratio to each, by round: median [{CONFIDENCE:.0%} interval] (smallest – largest)")
    for metric in dict.fromkeys([suite.metric, "cpu_us", "rate", "p99_us"]):
        for other, ratios in result["ratios"].items():
            ratio = ratios[metric]
            goal = suite.goals.get(other) if metric == suite.metric and subject == "evring" else None
            print(
                f"  {METRICS[metric][0]:>12} / {other:10} {ratio['median']:.3f} "
                f"[{ratio['low']:.3f} – {ratio['high']:.3f}] ({ratio['min']:.3f} – {ratio['max']:.3f})  "
                f"{ratio['verdict']}" + (f"; {against_goal(ratio, goal)}" if goal else "")
            )


def against_goal(ratio, goal):
    if not ratio["sure"]:
        return f"the goal is {goal}"
    if ratio["high"] <= goal:
        return f"within the goal of {goal}"
    if ratio["low"] > goal:
        return f"misses the goal of {goal}"
    return f"the goal of {goal} is within the noise"


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def note(text):
    print(f"compare: {text}", file=sys.stderr)


def machine():
    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "command": " ".join(sys.argv),
        "load_average": os.getloadavg()[0],
    }


def named_command(text):
    name, separator, command = text.partition("=")
    if not separator or not name or not command:
        raise argparse.ArgumentTypeError("expected NAME=COMMAND")
    return name, command


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("suites", nargs="+", choices=[*SUITES, "all"], metavar="SUITE", help=", ".join([*SUITES, "all"]))
    parser.add_argument("--servers", type=lambda text: text.split(","), help="only these, comma-separated; without evring the first is compared with the rest")
    parser.add_argument("--server", type=named_command, action="append", default=[], metavar="NAME=COMMAND", help="another server, started with --listen (and --upstream) added; repeatable")
    parser.add_argument("--rounds", type=int, default=30, help="rounds counted, after one that is not (default 30)")
    parser.add_argument("--seconds", type=float, default=0.5, help="measured seconds of a run (default 0.5; twice that with thousands of connections)")
    parser.add_argument("--warm-up", type=float, default=0.15, help="seconds of a run before that (default 0.15)")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="priority of everything measured; below 0 needs root")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--release", type=Path, default=target / "release", help="where the peers were built")
    parser.add_argument("--evring", type=Path, help="the evring binary (default: with the peers)")
    parser.add_argument("--json", action="store_true", help="everything that was measured, as JSON on stdout")
    options = parser.parse_args()
    options.evring = options.evring or options.release / "evring"
    if options.rounds < 1 or options.seconds <= 0 or options.warm_up < 0:
        parser.error("--rounds and --seconds are above 0")
    cores = os.sched_getaffinity(0)
    if not {options.server_core, options.load_core} <= cores:
        parser.error(f"cores {options.server_core} and {options.load_core} are needed, there are {sorted(cores)}")
    return options


def main():
    options = parse_arguments()
    # Ending by an exception is what stops the servers that are running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = list(SUITES) if "all" in options.suites else list(dict.fromkeys(options.suites))
    about = machine()
    if about["load_average"] > 0.5:
        note(f"the machine is busy (load average {about['load_average']:.2f}); expect wide intervals")
    if not options.json:
        print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, TCP {about['congestion_control']}")
    results = []
    try:
        for name in names:
            result = run_suite(name, SUITES[name], options)
            results.append(result)
            if not options.json:
                print_suite(result, SUITES[name], options)
    except Failure as failure:
        progress("")
        note(str(failure))
        return 1
    except KeyboardInterrupt:
        progress("")
        return 130
    finally:
        if options.json and results:
            json.dump({"machine": about, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "results": results}, sys.stdout, indent=1)
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
