#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Sends a file over TCP from registered memory: while the NIC reads one part of it, the next is filled."""

import argparse
import collections
import socket
import sys

import netgpu


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=4, help="how many there are")
    parser.add_argument("--bytes", type=int, default=256 << 10, help="how large each is")
    parser.add_argument("device")
    parser.add_argument("host")
    parser.add_argument("port")
    parser.add_argument("file")
    options = parser.parse_args()

    region = netgpu.Region(options.spans * options.bytes)
    spans = collections.deque(region.take(options.bytes) for _ in range(options.spans))
    with netgpu.Context(options.device) as context, open(options.file, "rb", buffering=0) as file:
        context.attach(region)
        with context.attach_socket(socket.create_connection((options.host, options.port)), send=True) as connection:
            send(connection, file, spans)
            connection.flush()
            statistics = connection.statistics()
    print(f"zero-copy {statistics['tx_zerocopy']}  copied {statistics['tx_copied']}", file=sys.stderr)


def send(connection, file, spans):
    """Spans that are ours are in `spans`."""
    while True:
        while not spans:
            finished = connection.completion()
            # One span can be part of several sends.
            if not finished.span.in_flight:
                spans.append(finished.span)
        span = spans.popleft()
        with memoryview(span) as view:
            nbytes = file.readinto(view)
        if nbytes == 0:
            return
        connection.sendall(span, 0, nbytes)


if __name__ == "__main__":
    main()
