# SPDX-License-Identifier: MIT OR Apache-2.0
"""Connections between our port and the other machine, which is a network namespace: see ../lib/nic.sh."""

import contextlib
import hashlib
import os
import random
import socket
import threading

import netgpu

DEV = os.environ["NETGPU_DEV"]
OURS = os.environ["NETGPU_ADDR4"]
PEER = os.environ["NETGPU_PEER_ADDR4"]
# What is for this port comes to this queue.
PORT, QUEUE = 5001, 1
CLONE_NEWNET = 0x40000000


def on_the_other_machine(function):
    """Calls it in a thread of that namespace, and returns what it returns: a socket stays there."""
    result = []

    def thread():
        fd = os.open(os.environ["NETGPU_PEER_NS"], os.O_RDONLY)
        os.setns(fd, CLONE_NEWNET)
        os.close(fd)
        result.append(function())

    there = threading.Thread(target=thread)
    there.start()
    there.join()
    return result[0]


def connect():
    """Two ends of a connection: ours and the peer's."""
    with socket.create_server((OURS, PORT)) as listener:
        peer = on_the_other_machine(lambda: socket.create_connection((OURS, PORT)))
        ours, _ = listener.accept()
    return ours, peer


def content(nbytes, seed=1):
    return random.Random(seed).randbytes(nbytes)


class Background:
    """A function in a thread of its own, whose failure is one of the case."""

    def __init__(self, stack, function, *arguments):
        self.result = self.error = None

        def thread():
            try:
                self.result = function(*arguments)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=thread, daemon=True)
        self.thread.start()
        stack.callback(self.thread.join, 5)

    def done(self, seconds=20):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"not within {seconds} s"
        if self.error:
            raise self.error
        return self.result


def forked(child):
    """Waits for a child that has ended well."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child has ended with {status}"


def receive_all(peer):
    """What the other end gets until the end of its stream, as a digest."""
    digest = hashlib.sha256()
    while data := peer.recv(1 << 16):
        digest.update(data)
    return digest.hexdigest()


class Connection:
    """A context with a region that was donated, one to send from, and a socket that does both."""

    def __init__(self, stack, donated=None, sent=None, **options):
        self.context = stack.enter_context(netgpu.Context(DEV))
        self.donated = donated or netgpu.Region(4 << 20)
        self.sent = sent or netgpu.Region(1 << 20)
        for region in (self.donated, self.sent):
            self.context.attach(region)
        self.queue = stack.enter_context(self.context.open_queue(QUEUE, fill_entries=1024, header_bytes=netgpu.IPV4_HEADER_BYTES))
        self.queue.donate(self.donated.take())
        if self.donated.device != "cpu":
            # Bytes that came with their header are copied there.
            host = netgpu.Region(1 << 20)
            self.context.attach(host)
            self.queue.donate(host.take())
        ours, self.peer = connect()
        stack.enter_context(self.peer)
        self.socket = stack.enter_context(
            self.context.attach_socket(ours, receive=self.queue, send=True, **options)
        )

    def piece(self, nbytes=4096):
        """The first piece of bytes that the peer sends, in the donated memory."""
        self.peer.sendall(content(nbytes))
        while True:
            piece = self.socket.recv(timeout=20)
            if piece.nbytes > 1000 and self.holds(piece.address):
                return piece

    def holds(self, address):
        return 0 <= address - self.donated.address < self.donated.nbytes

    def held(self):
        """How many buffers we have, as the kernel sees it when it looks."""
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(timeout=0):
                pass
        return self.socket.statistics()["held"]
