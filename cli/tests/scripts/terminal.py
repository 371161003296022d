"""Runs a command with standard error on a terminal until it shows a live line, then interrupts it.

Prints what the terminal got; exits with the command's exit code.
"""
import os
import pty
import select
import signal
import subprocess
import sys
import time

screen, terminal = pty.openpty()
command = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=terminal)
os.close(terminal)
shown = b""
deadline = time.monotonic() + 10
while b"turn" not in shown and time.monotonic() < deadline:
    if select.select([screen], [], [], 0.1)[0]:
        shown += os.read(screen, 4096)
command.send_signal(signal.SIGINT)
code = command.wait(timeout=10)
print(shown.decode())
sys.exit(code)
