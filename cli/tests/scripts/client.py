"""Sends random bytes to an echo server and half-closes while it reads them back."""
import os
import socket
import sys
import threading

host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sent = os.urandom(size)
with socket.create_connection((host, port), timeout=20) as peer:

    def send():
        peer.sendall(sent)
        peer.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = bytearray()
    while chunk := peer.recv(65536):
        received += chunk
    sender.join()
print("ok" if received == sent else "other bytes came back")
