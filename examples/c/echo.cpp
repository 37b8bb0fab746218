// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Sends what it receives over one TCP connection back, from where the NIC has put it: no byte is touched.
//
//	echo DEVICE PORT
//
// The connection is to be steered to the queue, as receive.c says.

#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>

#include <netgpu.h>

namespace {

constexpr int page = 4096, pages = 4096, entries = 1024;

int check(int ret)
{
	if (ret < 0)
		throw std::runtime_error(netgpu_last_error());
	return ret;
}

int check_system(int ret, const char *what)
{
	if (ret < 0)
		throw std::system_error(errno, std::generic_category(), what);
	return ret;
}

// A handle of the library, closed at the end of its scope.
template <class T, void (*close)(T **)> class Handle {
public:
	Handle() = default;
	Handle(const Handle &) = delete;
	Handle &operator=(const Handle &) = delete;
	~Handle() { close(&handle); }
	T **operator&() { return &handle; }
	operator T *() { return handle; }

private:
	T *handle = nullptr;
};

using Context = Handle<netgpu_ctx, netgpu_close_ctx>;
using Queue = Handle<netgpu_ifq, netgpu_close_ifq>;
using Socket = Handle<netgpu_skq, netgpu_detach_socket>;

class Descriptor {
public:
	Descriptor(int fd, const char *what) : fd(check_system(fd, what)) {}
	Descriptor(const Descriptor &) = delete;
	Descriptor &operator=(const Descriptor &) = delete;
	~Descriptor() { close(fd); }
	operator int() const { return fd; }

private:
	int fd;
};

// A received piece. Its buffer goes back when nobody refers to it any more: no send, and not who sends it.
struct Piece {
	netgpu_ifq *queue;
	iovec rest;

	Piece(netgpu_ifq *queue, iovec bytes) : queue(queue), rest(bytes), start(bytes.iov_base) {}
	Piece(const Piece &) = delete;
	Piece &operator=(const Piece &) = delete;
	~Piece()
	{
		netgpu_recycle_buffer(queue, start);
		netgpu_recycle_complete(queue);
	}

private:
	void *start;
};

int accept_one(int port, netgpu_ifq *queue)
{
	sockaddr_in6 address{};
	int on = 1;

	address.sin6_family = AF_INET6;
	address.sin6_port = htons(port);
	Descriptor fd(socket(AF_INET6, SOCK_STREAM, 0), "socket");
	check_system(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), "SO_REUSEADDR");
	check_system(bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof(address)), "bind");
	check_system(listen(fd, 1), "listen");
	fprintf(stderr, "listening on port %d, receive queue %d\n", port, netgpu_ifq_id(queue));
	return accept(fd, nullptr, nullptr);
}

void echo(const char *device, int port)
{
	Context context;
	Queue queue;
	Socket socket;

	check(netgpu_open_ctx(&context, device));
	void *memory = netgpu_alloc_memory(pages * page, MEMTYPE_HOST);
	if (!memory)
		throw std::runtime_error(netgpu_last_error());
	check(netgpu_register_memory(context, memory, pages * page, MEMTYPE_HOST));
	check(netgpu_open_ifq(&queue, context, -1, pages));
	netgpu_populate_ring(queue, reinterpret_cast<uintptr_t>(memory), pages);

	// Closed before the socket is detached, which would abort the connection.
	Descriptor fd(accept_one(port, queue), "accept");
	check(netgpu_attach_socket(&socket, context, fd, entries));

	std::deque<std::shared_ptr<Piece>> waiting;
	std::map<uint64_t, std::shared_ptr<Piece>> sent;
	uint64_t sends = 0, bytes = 0;
	bool ended = false;
	while (!ended || !waiting.empty() || !sent.empty()) {
		iovec *pieces[64];
		uint64_t *numbers[64];
		bool idle = true;

		int count = check(netgpu_get_cq_batch(socket, numbers, 64));
		for (int i = 0; i < count; i++)
			sent.erase(*numbers[i]);
		idle = idle && count == 0;

		count = check(netgpu_get_rx_batch(socket, pieces, 64));
		for (int i = 0; i < count; i++)
			waiting.push_back(std::make_shared<Piece>(queue, *pieces[i]));
		idle = idle && count == 0;
		if (count == 0 && !ended) {
			char nothing;
			ended = recv(fd, &nothing, 1, MSG_DONTWAIT) == 0;
			idle = idle && !ended;
		}

		bool full = false;
		while (!waiting.empty() && !full) {
			Piece &piece = *waiting.front();
			msghdr message{};
			message.msg_iov = &piece.rest;
			message.msg_iovlen = 1;
			ssize_t done = sendmsg(fd, &message, MSG_NETDMA | MSG_DONTWAIT | MSG_NOSIGNAL);
			if (done < 0 && errno != EAGAIN && errno != ENOBUFS)
				throw std::system_error(errno, std::generic_category(), "cannot send");
			if (done < 0) {
				full = true;
				continue;
			}
			sent.emplace(sends++, waiting.front());
			bytes += done;
			piece.rest.iov_base = static_cast<char *>(piece.rest.iov_base) + done;
			piece.rest.iov_len -= done;
			if (piece.rest.iov_len == 0)
				waiting.pop_front();
			idle = false;
		}

		if (idle) {
			pollfd poller{fd, static_cast<short>(POLLIN | (waiting.empty() ? 0 : POLLOUT)), 0};
			// Past the end of the stream this returns at once, for the short time until the last sends have finished.
			poll(&poller, 1, -1);
		}
	}
	shutdown(fd, SHUT_WR);
	fprintf(stderr, "echo %llu bytes\n", static_cast<unsigned long long>(bytes));
	netgpu_free_memory(memory, pages * page, MEMTYPE_HOST);
}

} // namespace

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: echo DEVICE PORT\n");
		return 2;
	}
	try {
		echo(argv[1], atoi(argv[2]));
		return 0;
	} catch (const std::exception &error) {
		fprintf(stderr, "echo: %s\n", error.what());
		return 1;
	}
}
