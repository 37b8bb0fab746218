# SPDX-License-Identifier: MIT OR Apache-2.0
"""Host memory: what the module promises, over the cable."""

import asyncio
import ctypes
import errno
import fcntl
import gc
import hashlib
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback

import numpy

import ktap
import netgpu
from ktap import raises, until
from pair import DEV, PORT, QUEUE, Background, Connection, connect, content, forked, on_the_other_machine, receive_all
from tensor import LEGACY, VERSIONED, Tensor


def case_receives(stack):
    data = content(1 << 20)
    c = Connection(stack)
    sender = Background(stack, lambda: (c.peer.sendall(data), c.peer.shutdown(socket.SHUT_WR)))
    digest, inside = hashlib.sha256(), 0
    for piece in c.socket:
        with piece, memoryview(piece) as view:
            digest.update(view)
            inside += len(view) if c.holds(piece.address) else 0
    sender.done()
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    assert inside == len(data), "all bytes lie in the memory that was donated"
    assert c.socket.recv() is None, "the end stays the end"
    statistics = c.socket.statistics()
    assert statistics["rx_zerocopy"] > len(data) // 2, statistics
    assert statistics["rx_zerocopy"] + statistics["rx_copied"] == len(data)
    assert c.context.statistics()["rx_zerocopy"] == c.queue.statistics()["rx_zerocopy"] == statistics["rx_zerocopy"]
    assert c.context.region_statistics(c.donated)["rx_zerocopy"] == statistics["rx_zerocopy"]
    assert c.context.statistics()["bad_return"] == 0


def case_sends(stack):
    data = content(1 << 20)
    c = Connection(stack)
    receiver = Background(stack, receive_all, c.peer)
    span = c.sent.take()
    with memoryview(span) as view:
        view[:] = data
    c.socket.sendall(span)
    assert span.in_flight
    sent = []
    while completion := c.socket.completion(timeout=20):
        assert completion.span is span
        sent.append((completion.start, completion.nbytes))
    assert not span.in_flight and c.socket.in_flight == 0
    ends = 0
    for start, nbytes in sorted(sent):
        assert start == ends
        ends += nbytes
    assert ends == len(data)
    c.socket.shutdown()
    assert receiver.done() == hashlib.sha256(data).hexdigest()
    assert c.socket.statistics()["tx_zerocopy"] == len(data)


def case_arrays_are_where_the_nic_wrote(stack):
    c = Connection(stack)
    data = content(4096)
    piece = c.piece()
    at = data.index(piece.tobytes())
    for array in (numpy.from_dlpack(piece), numpy.frombuffer(piece, numpy.uint8), numpy.asarray(memoryview(piece))):
        assert array.ctypes.data == piece.address and array.nbytes == len(piece)
        assert array.dtype == numpy.uint8 and array.tobytes() == data[at : at + len(piece)]
    # What DLPack says of them too, though numpy 2.2 makes arrays of that for reading only.
    numpy.frombuffer(piece, numpy.uint8)[:] = 7
    assert piece.tobytes() == bytes([7]) * len(piece), "the bytes are ours, to write to as well"
    with c.sent.take(8192) as span:
        numpy.frombuffer(span, numpy.uint8)[:] = 9
        assert span.tobytes() == bytes([9]) * 8192
        assert numpy.from_dlpack(span).ctypes.data == span.address == c.sent.address


def case_views_keep_the_buffer(stack):
    c = Connection(stack)
    piece = c.piece()
    keepers = [memoryview(piece), memoryview(piece)[1:], numpy.from_dlpack(piece), numpy.frombuffer(piece, numpy.uint8)]
    keepers += [piece.__dlpack__(), piece.__dlpack__(max_version=(1, 0)), Tensor(piece.__dlpack__(max_version=(1, 1)))]
    before = piece.tobytes()
    held = until(lambda: c.held() == 1 and 1)
    piece.release()
    assert piece.released
    piece.release()
    with raises(ValueError, "released"):
        memoryview(piece)
    with raises(ValueError, "released"):
        piece.tobytes()
    with raises(ValueError, "released"):
        piece.__dlpack__()
    with raises(ValueError, "released"), piece:
        pass
    del piece
    while keepers:
        # Others could get the buffer now, if it were back.
        c.peer.sendall(content(4096, seed=len(keepers)))
        time.sleep(0.02)
        assert c.held() == held, f"the buffer is back while there are {keepers}"
        if isinstance(keepers[0], (memoryview, numpy.ndarray)):
            assert bytes(keepers[0]) in before
        keeper = keepers.pop(0)
        if isinstance(keeper, Tensor):
            keeper.delete()
        del keeper
        gc.collect()
    until(lambda: c.held() == 0)
    assert c.context.statistics()["bad_return"] == 0


def case_a_refused_view_has_no_owner(stack):
    """Who wanted the view finds in it that there is nothing to release."""
    span = netgpu.Region(4096).take()
    span.release()
    view = ctypes.create_string_buffer(b"\xff" * 256)
    with raises(ValueError, "released"):
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(span), view, 0)
    # Its second field is the owner, as large as a pointer like the first.
    size = ctypes.sizeof(ctypes.c_void_p)
    assert view.raw[size : 2 * size] == bytes(size)


def case_released_by_whatever_comes_last(stack):
    c = Connection(stack)
    for _ in range(3):
        piece = c.piece()
        with piece as same:
            assert same is piece
        assert piece.released
        until(lambda: c.held() == 0)
        piece = c.piece()
        array = numpy.from_dlpack(piece)
        del piece
        assert c.held() == 1
        del array
        until(lambda: c.held() == 0)
    assert c.context.statistics()["bad_return"] == 0


def case_dlpack_as_the_standard_has_it(stack):
    c = Connection(stack)
    piece = c.piece()
    assert piece.__dlpack_device__() == (1, 0)
    tensor = Tensor(piece.__dlpack__(max_version=(1, 3), dl_device=(1, 0), copy=False), VERSIONED)
    assert (tensor.managed.major, tensor.managed.minor, tensor.managed.flags) == (1, 0, 0)
    assert (tensor.device, tensor.address, tensor.nbytes) == ((1, 0), piece.address, len(piece))
    tensor.delete()
    for old in (None, (0, 8)):
        tensor = Tensor(piece.__dlpack__(max_version=old), LEGACY)
        assert (tensor.address, tensor.nbytes) == (piece.address, len(piece))
        tensor.delete()
    copy = numpy.from_dlpack(piece, copy=True)
    assert copy.ctypes.data != piece.address and copy.tobytes() == piece.tobytes()
    tensor = Tensor(piece.__dlpack__(max_version=(1, 0), copy=True))
    assert tensor.managed.flags == 2 and tensor.address != piece.address
    tensor.delete()
    with raises(ValueError, "no streams"):
        piece.__dlpack__(stream=1)
    with raises(BufferError, "copies"):
        piece.__dlpack__(dl_device=(2, 0))
    # From another thread, as libraries do.
    tensor = Tensor(piece.__dlpack__(max_version=(1, 0)))
    piece.release()
    assert c.held() == 1
    Background(stack, tensor.delete).done()
    until(lambda: c.held() == 0)


def case_goes_on_when_buffers_come_back(stack):
    """A socket that has used its share up, and a thread that waits for it."""
    c = Connection(stack, donated=netgpu.Region(64 * 4096))
    sender = Background(stack, c.peer.sendall, content(1 << 20))
    stack.callback(c.peer.close)
    pieces, nbytes = [], 0
    try:
        while True:
            pieces.append(c.socket.recv(timeout=1))
    except TimeoutError:
        pass
    assert c.socket.statistics()["rx_stalled"] > 0, "else nothing is tried"
    nbytes += sum(map(len, pieces))
    assert nbytes < 1 << 20
    waiter = Background(stack, c.socket.recv, 20)
    time.sleep(0.2)
    busy = time.process_time()
    time.sleep(1)
    busy = time.process_time() - busy
    assert waiter.thread.is_alive()
    assert busy < 0.25, f"in a second of waiting, {busy} s of work"
    pieces.clear()
    nbytes += len(waiter.done())
    while nbytes < 1 << 20:
        nbytes += len(c.socket.recv(timeout=20))
    sender.done()


def case_a_span_is_not_written_while_it_is_sent(stack):
    c = Connection(stack)
    span = c.sent.take()
    array = numpy.from_dlpack(span)
    view = memoryview(span)
    with raises(BufferError, "2 views"):
        c.socket.send(span)
    view.release()
    with raises(BufferError, "1 views"):
        c.socket.send(span)
    del array
    assert not span.in_flight
    # As nobody receives, it stays under way.
    fill(c, span)
    for attempt in (memoryview, numpy.from_dlpack, lambda span: span.write(b"x"), netgpu.Span.tobytes, c.queue.donate):
        with raises(BufferError, "being sent"):
            attempt(span)
    with raises(TimeoutError):
        c.socket.flush(timeout=0.1)
    span.release()
    with raises(MemoryError):
        c.sent.take()
    receiver = Background(stack, receive_all, c.peer)
    c.socket.flush(timeout=20)
    assert not span.in_flight
    c.sent.take().release()
    c.socket.shutdown()
    receiver.done()


def fill(c, span):
    """Sends until there is no room, and none comes: the peer's window is closed, behind which the rest waits."""
    with raises(TimeoutError, errno=errno.ETIMEDOUT):
        while c.socket.send(span, timeout=1):
            pass
    with raises(BlockingIOError, errno=errno.EAGAIN):
        c.socket.send(span, timeout=0)
    assert span.in_flight and c.socket.in_flight > 0


def case_what_is_lost_with_its_socket(stack):
    c = Connection(stack)
    span = c.sent.take()
    fill(c, span)
    c.socket.close()
    assert not span.in_flight
    with raises(ValueError, "being sent when its socket was closed"):
        memoryview(span)
    with raises(MemoryError):
        c.sent.take(4096)


def case_parts_of_a_span(stack):
    c = Connection(stack, completion_entries=16)
    receiver = Background(stack, receive_all, c.peer)
    span = c.sent.take(65536)
    span.write(bytes(range(256)) * 256)
    expected = hashlib.sha256()
    for start in range(0, 65536, 512):
        # More than the completion ring has entries.
        c.socket.sendall(span, start, start + 512)
        expected.update(bytes(range(256)) * 2)
    assert c.socket.send(span, 5, 5) == 0
    c.socket.sendall(span, 65536)
    told = 0
    while completion := c.socket.completion(timeout=20):
        assert completion.span is span and completion.nbytes <= 512 and completion.start // 512 == (completion.start + completion.nbytes - 1) // 512
        told += completion.nbytes
    assert told == 65536
    with memoryview(span) as view:
        view[0] = 1
    c.socket.shutdown()
    assert receiver.done() == expected.hexdigest()


def case_misuse(stack):
    c = Connection(stack)
    region, span = c.sent, c.sent.take(4096)
    for start, stop in ((1, 0), (0, 4097), (4097, None)):
        with raises(IndexError, "not within"):
            c.socket.send(span, start, stop)
    with raises(OverflowError):
        c.socket.send(span, -1)
    with raises(IndexError, "not within"):
        span.write(bytes(2), 4095)
    with raises(IndexError, "not within"):
        span.write(b"", 1 << 40)
    with raises(ValueError):
        region.take(0)
    with raises(MemoryError, "1048576 bytes"):
        region.take()
    with raises(ValueError, "backing"):
        netgpu.Region(4096, "none")
    with raises(ValueError):
        netgpu.Region(0)
    with raises(TypeError):
        c.socket.send(b"not a span")
    with raises(TypeError):
        netgpu.Span()
    with raises(OSError, "attached already", errno.EEXIST):
        c.context.attach(region)
    with raises(OSError, "cannot take", errno.EBUSY):
        c.context.open_queue(QUEUE)
    with raises(OSError, "no such receive queue", errno.ERANGE):
        c.context.open_queue(1000)
    with raises(OSError, "cannot attach the TCP socket"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            c.context.attach_socket(udp, send=True)
        finally:
            assert udp.fileno() >= 0, "a socket that was refused stays open"
    with raises(ValueError, "need not be attached"):
        c.context.attach_socket(socket.socket())
    with raises(ValueError, "belongs to another context"):
        c.queue.donate(netgpu.Region(4096).take())
    span.release()
    with raises(ValueError, "released"):
        memoryview(span)
    with raises(ValueError, "released"):
        c.socket.send(span)
    donated = region.take(4096)
    c.queue.donate(donated)
    with raises(ValueError, "donated"):
        c.queue.donate(donated)
    with raises(ValueError, "donated"):
        memoryview(donated)


def case_use_after_close(stack):
    c = Connection(stack)
    piece, span = c.piece(), c.sent.take(4096)
    descriptor = c.socket.fileno()
    assert descriptor >= 0 and c.socket.getsockname()[1] == PORT and c.socket.getpeername()[0] == os.environ["NETGPU_PEER_ADDR4"]
    for closable in (c.socket, c.queue, c.context):
        closable.close()
        closable.close()
    assert c.socket.fileno() == -1
    for call in (c.socket.recv, lambda: c.socket.send(span), c.socket.completion, c.socket.statistics, c.socket.getpeername, lambda: next(c.socket)):
        with raises(ValueError, "the socket is closed"):
            call()
    with raises(ValueError, "the queue is closed"):
        c.queue.donate(span)
    with raises(ValueError, "the context is closed"):
        c.context.attach(c.sent)
    assert "closed" in repr(c.socket)
    # Pieces and spans stay.
    assert len(piece.tobytes()) == len(piece)
    numpy.frombuffer(piece, numpy.uint8)[0] = 1
    piece.release()
    memoryview(span)[0] = 1
    with raises(OSError):
        os.fstat(descriptor)


def case_closing_ends_in_order(stack):
    """As with any socket: the peer, whose side is open, gets what was sent, and comes to the end of the stream."""
    c = Connection(stack)
    c.peer.sendall(b"request")
    assert c.socket.recv(timeout=20).tobytes() == b"request"
    span = c.sent.take(4096)
    span.write(b"answer")
    c.socket.sendall(span, 0, 6)
    c.socket.flush(timeout=20)
    c.socket.close()
    c.peer.settimeout(20)
    assert c.peer.recv(6, socket.MSG_WAITALL) == b"answer"
    assert c.peer.recv(1) == b""


def case_what_the_peer_has_not_got_is_told(stack):
    """A send has finished as well when the connection is gone."""
    c = Connection(stack)
    span = c.sent.take()
    fill(c, span)
    c.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.peer.close()
    # To all who ask, as often as they do.
    for call in (c.socket.flush, c.socket.flush, c.socket.recv, c.socket.recv, c.socket.flush):
        with raises(ConnectionResetError, errno=errno.ECONNRESET):
            call(timeout=20)
    assert not span.in_flight


def case_a_forked_child_leaves_it_alone(stack):
    """It has the objects, and what it does with them, and their end, changes nothing for us."""
    c = Connection(stack)
    piece, span = c.piece(), c.sent.take(4096)
    view, array, tensor = memoryview(piece), numpy.from_dlpack(span), Tensor(piece.__dlpack__(max_version=(1, 0)))
    before = piece.tobytes()
    if not (child := os.fork()):
        try:
            in_the_child(c, piece, span)
            view.release()
            tensor.delete()
            del view, array, tensor, piece, span
            gc.collect()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        # With all that is to be undone, and finalisers.
        sys.exit()
    forked(child)
    assert piece.tobytes() == before and c.held() == 1
    view.release()
    tensor.delete()
    piece.release()
    until(lambda: c.held() == 0)
    del array
    span.write(b"goes on")
    c.socket.sendall(span, 0, 7)
    c.socket.flush(timeout=20)
    assert c.peer.recv(7, socket.MSG_WAITALL) == b"goes on"
    c.piece().release()
    assert c.context.statistics()["bad_return"] == 0


def in_the_child(c, piece, span):
    calls = [piece.tobytes, piece.__dlpack__, lambda: memoryview(piece), lambda: piece.released, lambda: next(c.socket)]
    calls += [span.tobytes, span.__dlpack__, lambda: memoryview(span), lambda: span.in_flight, lambda: span.write(b"x"), c.sent.take]
    calls += [c.socket.recv, c.socket.completion, c.socket.flush, c.socket.statistics, c.socket.fileno, lambda: c.socket.send(span)]
    calls += [c.queue.statistics, lambda: c.queue.donate(span), c.context.statistics, lambda: c.context.attach(c.sent), c.context.__enter__]
    for call in calls:
        with raises(ValueError, "the process that has made it"):
            call()
    for thing in (piece, span, c.socket, c.queue, c.context, c.sent):
        repr(thing)
    for end in (piece.release, span.release, c.socket.close, c.queue.close, c.context.close):
        end()
    # What it makes itself is its own.
    mine = netgpu.Region(8192).take()
    mine.write(b"mine")
    assert mine.tobytes()[:4] == b"mine"


def case_forks_while_it_waits(stack):
    """In a handler of a signal, as in any function that is called meanwhile."""
    c = Connection(stack)
    children = []
    stack.callback(signal.signal, signal.SIGALRM, signal.getsignal(signal.SIGALRM))
    signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    error = None
    try:
        c.socket.recv(timeout=2)
    except Exception as raised:
        error = raised
    if children == [0]:
        os._exit(not isinstance(error, ValueError))
    assert isinstance(error, TimeoutError)
    forked(children[0])
    c.peer.sendall(b"x")
    assert c.socket.recv(timeout=20).tobytes() == b"x"


def case_only_one_direction(stack):
    context = stack.enter_context(netgpu.Context(DEV))
    region = netgpu.Region(65536, "shared")
    context.attach(region)
    queue = stack.enter_context(context.open_queue(QUEUE))
    queue.donate(region.take(32768))
    for receive, send in ((queue, False), (None, True)):
        ours, peer = connect()
        with peer, context.attach_socket(ours, receive=receive, send=send) as attached:
            assert ours.fileno() == -1, "the connection is the result's"
            if send:
                with raises(ValueError, "not attached for receiving"):
                    attached.recv()
            else:
                with raises(ValueError, "not attached for sending"):
                    attached.completion()
                with raises(ValueError, "not attached for sending"):
                    attached.send(region.take(4096))


def case_errors_have_an_errno(stack):
    with raises(OSError, "no network device", errno.ENODEV):
        netgpu.Context("no-such-dev")
    with raises(OSError, "DMA", errno.EOPNOTSUPP):
        netgpu.Context("lo")
    with raises(OSError, "none of 5000", errno.EINVAL):
        netgpu.Context(DEV, buffer_size=5000)
    with raises(OSError, "huge pages"):
        netgpu.Region(1 << 40, "huge")
    with raises(OSError, "libcuda", errno.ENODEV):
        netgpu.Region.cuda(4096)
    with raises(OSError, errno=errno.EBADF):
        netgpu.Region.dma_buf(1 << 20, 0, 4096)
    c = Connection(stack)
    c.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.peer.close()
    with raises(ConnectionResetError, errno=errno.ECONNRESET):
        c.socket.recv(timeout=20)


def case_larger_buffers(stack):
    usual = stack.enter_context(netgpu.Context(DEV))
    assert usual.buffer_size == 4096 == usual.statistics()["buffer_size"]
    large = stack.enter_context(netgpu.Context(DEV, buffer_size=1 << 16))
    assert large.buffer_size == 1 << 16 == large.statistics()["buffer_size"]
    with raises(OSError, "not a multiple", errno.EINVAL):
        large.attach(netgpu.Region(4096))
    for padded in (False, True):
        large.open_queue(QUEUE, padded=padded).close()


def case_timeouts(stack):
    c = Connection(stack)
    with raises(BlockingIOError, errno=errno.EAGAIN):
        c.socket.recv(timeout=0)
    began = time.monotonic()
    with raises(TimeoutError, "0.2 s", errno.ETIMEDOUT):
        c.socket.recv(timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 10
    for wrong in (-1, float("nan")):
        with raises(ValueError, "timeout"):
            c.socket.recv(timeout=wrong)
    assert c.socket.completion(timeout=0) is None, "there is no unfinished send"
    span = c.sent.take()
    fill(c, span)
    with raises(TimeoutError, errno=errno.ETIMEDOUT):
        c.socket.sendall(span, timeout=0.1)


def case_signals_interrupt(stack):
    c = Connection(stack)
    span = c.sent.take()
    fill(c, span)
    stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
    stack.callback(signal.signal, signal.SIGALRM, signal.getsignal(signal.SIGALRM))

    def completions():
        while True:
            c.socket.completion()

    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    for wait in (c.socket.recv, completions, lambda: c.socket.sendall(span), c.socket.flush):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with raises(KeyboardInterrupt):
            wait()
    # A handler that raises nothing is called, and the call goes on.
    calls = []
    signal.signal(signal.SIGALRM, lambda *_: calls.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    with raises(TimeoutError):
        c.socket.recv(timeout=0.5)
    assert len(calls) > 1


def case_others_run_while_one_waits(stack):
    c = Connection(stack)
    waiter = Background(stack, c.socket.recv)
    time.sleep(0.1)
    assert waiter.thread.is_alive()
    c.peer.sendall(b"here")
    assert waiter.done().tobytes() == b"here"
    # Of a thread that waits for as long as it takes, closing is the end, wherever it is just then.
    c.socket.close()
    for attempt in range(20):
        ours, peer = connect()
        with peer, c.context.attach_socket(ours, receive=c.queue) as attached:
            waiter = Background(stack, attached.recv)
            time.sleep(attempt % 4 * 0.01)
            attached.close()
            with raises(ValueError, "closed"):
                waiter.done()


def case_asyncio(stack):
    """Both directions in an event loop, with the descriptor alone."""
    c = Connection(stack)
    data = content(1 << 20)
    echo = Background(stack, lambda: (c.peer.sendall(data), c.peer.shutdown(socket.SHUT_WR)))
    span = c.sent.take()
    span.write(data)

    async def both():
        loop = asyncio.get_running_loop()
        received, sent = loop.create_future(), loop.create_future()
        digest, queued = hashlib.sha256(), 0

        def readable():
            try:
                while (piece := c.socket.recv(timeout=0)) is not None:
                    with piece:
                        digest.update(piece)
                loop.remove_reader(c.socket.fileno())
                received.set_result(digest.hexdigest())
            except BlockingIOError:
                pass

        def writable():
            nonlocal queued
            try:
                while queued < len(span):
                    queued += c.socket.send(span, queued, timeout=0)
                loop.remove_writer(c.socket.fileno())
                sent.set_result(None)
            except BlockingIOError:
                pass

        loop.add_reader(c.socket.fileno(), readable)
        loop.add_writer(c.socket.fileno(), writable)
        await asyncio.wait_for(sent, 20)
        return await asyncio.wait_for(received, 20)

    receiver = Background(stack, receive_all, c.peer)
    assert asyncio.run(both()) == hashlib.sha256(data).hexdigest()
    echo.done()
    c.socket.flush(timeout=20)
    c.socket.shutdown()
    assert receiver.done() == hashlib.sha256(data).hexdigest()


def case_dma_buf(stack):
    """Memory that only its exporter knows."""
    c = Connection(stack)
    nbytes = 65536
    memfd = os.memfd_create("dma-buf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, memfd)
    os.ftruncate(memfd, nbytes)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with open("/dev/udmabuf", "rb") as device:
        # UDMABUF_CREATE with UDMABUF_FLAGS_CLOEXEC.
        fd = fcntl.ioctl(device, 0x40187542, bytearray(struct.pack("IIQQ", memfd, 1, 0, nbytes)))
    os.write(memfd, b"in the dma-buf")
    region = netgpu.Region.dma_buf(fd, 0, nbytes)
    os.close(fd)
    assert region.device == "dma-buf"
    c.context.attach(region)
    span = region.take()
    with raises(BufferError, "does not reach"):
        memoryview(span)
    with raises(BufferError, "only its exporter"):
        span.__dlpack_device__()
    with raises(BufferError, "only its exporter"):
        span.__dlpack__()
    with raises(ValueError, "exporter"):
        span.tobytes()
    with raises(ValueError, "exporter"):
        span.write(b"x")
    c.socket.sendall(span, 0, 14)
    assert c.peer.recv(14, socket.MSG_WAITALL) == b"in the dma-buf"
    c.socket.flush(timeout=20)


def case_nothing_is_kept(stack):
    """References: to spans that were sent, and of those that were not released."""
    c = Connection(stack)
    receiver = Background(stack, receive_all, c.peer)
    for _ in range(100):
        c.socket.send(c.sent.take(8192), 0, 100)
        c.socket.flush(timeout=20)
    c.sent.take(1 << 20).release()
    span = c.sent.take(4096)
    count = sys.getrefcount(span)
    for _ in range(10):
        c.socket.send(span)
        assert c.socket.completion(timeout=20).span is span
        memoryview(span).release()
        numpy.from_dlpack(span)
    assert sys.getrefcount(span) == count
    c.socket.shutdown()
    receiver.done()


if __name__ == "__main__":
    sys.exit(ktap.run(sys.modules[__name__]))
