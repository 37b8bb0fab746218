# SPDX-License-Identifier: MIT OR Apache-2.0
"""A GPU's memory, with the stand-ins of ../standin: what a tensor library gets, and when the memory is the NIC's again."""

import ctypes
import faulthandler
import hashlib
import os
import socket
import sys
import threading

import numpy

import ktap
import netgpu
from ktap import raises, until
from pair import Background, Connection, content, forked, receive_all
from tensor import LEGACY, Tensor


def waits():
    """How often the GPU was waited for."""
    return ctypes.c_uint.in_dll(ctypes.CDLL("libcuda.so.1"), "standin_synchronized").value


def case_receives(stack):
    data = content(1 << 20)
    c = Connection(stack, donated=netgpu.Region.cuda(4 << 20))
    assert c.donated.device == "cuda:0"
    sender = Background(stack, lambda: (c.peer.sendall(data), c.peer.shutdown(socket.SHUT_WR)))
    digest, on_the_gpu = hashlib.sha256(), 0
    for piece in c.socket:
        with piece:
            assert piece.device == ("cuda:0" if c.holds(piece.address) else "cpu")
            if piece.device == "cpu":
                digest.update(piece)
                continue
            on_the_gpu += len(piece)
            tensor = Tensor(piece.__dlpack__(stream=1, max_version=(1, 0)))
            assert (tensor.device, tensor.address, tensor.nbytes) == ((2, 0), piece.address, len(piece))
            assert tensor.managed.flags == 0
            before = waits()
            tensor.delete()
            assert waits() == before + 1, "it has not waited for what the GPU was given"
            digest.update(piece.tobytes())
    sender.done()
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    assert on_the_gpu > len(data) // 2


def case_dlpack(stack):
    c = Connection(stack, donated=netgpu.Region.cuda(4 << 20, gpu=0))
    piece = c.piece()
    assert piece.__dlpack_device__() == (2, 0)
    for stream in (None, 1, 2, 0x7F0000001000, -1):
        Tensor(piece.__dlpack__(stream=stream, dl_device=(2, 0), copy=False), LEGACY).delete()
    for stream in (0, -2):
        with raises(ValueError, "stream"):
            piece.__dlpack__(stream=stream)
    with raises(BufferError, "does not reach memory of cuda:0"):
        memoryview(piece)
    with raises(BufferError, "copies"):
        piece.__dlpack__(dl_device=(2, 1))
    with raises(BufferError, "copies"):
        piece.__dlpack__(copy=True)
    with raises(BufferError, "copies"):
        piece.__dlpack__(dl_device=(1, 0), copy=False)
    copy = numpy.from_dlpack(piece, device="cpu")
    assert copy.tobytes() == piece.tobytes() and copy.tobytes() in content(4096)
    # A tensor keeps the buffer.
    tensor = Tensor(piece.__dlpack__(stream=1, max_version=(1, 0)))
    piece.release()
    assert c.held() == 1
    Background(stack, tensor.delete).done()
    until(lambda: c.held() == 0)


def case_sends(stack):
    data = content(1 << 20, seed=2)
    c = Connection(stack, sent=netgpu.Region.cuda(2 << 20))
    receiver = Background(stack, receive_all, c.peer)
    span = c.sent.take(1 << 20)
    span.write(data)
    assert span.tobytes() == data
    tensor = Tensor(span.__dlpack__(stream=1, max_version=(1, 0)))
    assert (tensor.device, tensor.address, tensor.nbytes) == ((2, 0), span.address, 1 << 20)
    with raises(BufferError, "1 views"):
        c.socket.send(span)
    before = waits()
    tensor.delete()
    assert waits() == before + 1
    c.socket.sendall(span)
    with raises(BufferError, "being sent"):
        span.__dlpack__()
    c.socket.flush(timeout=20)
    c.socket.shutdown()
    assert receiver.done() == hashlib.sha256(data).hexdigest()
    with raises(OSError, "no GPU 7"):
        netgpu.Region.cuda(4096, gpu=7)


def case_others_run_while_the_gpu_copies(stack):
    """A copy comes after what the GPU was given before, which can be a function of Python's: whoever waits for it has not got the interpreter."""
    c = Connection(stack, donated=netgpu.Region.cuda(4 << 20), sent=netgpu.Region.cuda(1 << 20))
    piece, span = c.piece(), c.sent.take(4096)
    began, go = threading.Semaphore(0), threading.Event()
    stack.callback(go.set)
    work = ctypes.CFUNCTYPE(None)(lambda: (began.release(), go.wait()))
    given = ctypes.c_void_p.in_dll(ctypes.CDLL("libcuda.so.1"), "standin_work")
    given.value = ctypes.cast(work, ctypes.c_void_p).value
    stack.callback(setattr, given, "value", None)
    # If it hangs, nothing of Python would say so.
    faulthandler.dump_traceback_later(60, exit=True)
    stack.callback(faulthandler.cancel_dump_traceback_later)
    reader, writer = Background(stack, piece.tobytes), Background(stack, span.write, bytes(4096))
    for _ in range(2):
        assert began.acquire(timeout=20)
    assert c.piece().device == "cuda:0"
    assert not span.in_flight
    with raises(BufferError, "another thread"):
        c.socket.send(span)
    go.set()
    assert len(reader.done()) == len(piece)
    writer.done()
    c.socket.send(span)
    c.socket.flush(timeout=20)


def case_a_forked_child_frees_nothing(stack):
    region = netgpu.Region.cuda(1 << 20)
    span = region.take(4096)
    span.write(b"here" * 1024)
    if not (child := os.fork()):
        del span, region
        sys.exit()
    forked(child)
    assert span.tobytes() == b"here" * 1024


if __name__ == "__main__":
    sys.exit(ktap.run(sys.modules[__name__]))
