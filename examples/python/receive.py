#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Receives one TCP connection in registered memory and writes what came to stdout.

The connection is to be steered to the queue, and header split to be on:

    netgpu setup DEVICE --queue QUEUE
    ethtool -N DEVICE flow-type tcp4 dst-port PORT action QUEUE
"""

import argparse
import asyncio
import socket
import sys

import netgpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asyncio", action="store_true", help="in an event loop")
    parser.add_argument("--memory", type=int, default=16 << 20, metavar="BYTES", help="to receive into")
    parser.add_argument("device")
    parser.add_argument("queue", type=int)
    parser.add_argument("port", type=int)
    options = parser.parse_args()

    region = netgpu.Region(options.memory)
    with netgpu.Context(options.device) as context:
        context.attach(region)
        with context.open_queue(options.queue) as queue:
            queue.donate(region.take())
            with context.attach_socket(accept(options.port), receive=queue) as connection:
                if options.asyncio:
                    asyncio.run(receive_in_a_loop(connection))
                else:
                    receive(connection)
                statistics = connection.statistics()
    print(f"zero-copy {statistics['rx_zerocopy']}  copied {statistics['rx_copied']}", file=sys.stderr)


def accept(port):
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        print(f"listening on port {port}", file=sys.stderr, flush=True)
        connection, _ = listener.accept()
    return connection


def receive(connection):
    for piece in connection:
        # Leaving the block gives the buffer back to the NIC.
        with piece:
            sys.stdout.buffer.write(piece)


async def receive_in_a_loop(connection):
    loop = asyncio.get_running_loop()
    end = loop.create_future()

    def readable():
        try:
            while True:
                try:
                    piece = connection.recv(timeout=0)
                except BlockingIOError:
                    # Of recv() only: a stdout that does not block raises it, too.
                    return
                if piece is None:
                    end.set_result(None)
                    break
                with piece:
                    sys.stdout.buffer.write(piece)
        except Exception as error:
            end.set_exception(error)
        loop.remove_reader(connection.fileno())

    loop.add_reader(connection.fileno(), readable)
    await end


if __name__ == "__main__":
    main()
