// SPDX-License-Identifier: MIT OR Apache-2.0
#include "helpers.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <net/if.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

int ng_open(void)
{
	int fd = open(NETGPU_PATH, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int ng_ioctl(int fd, unsigned long cmd, void *arg)
{
	int ret = ioctl(fd, cmd, arg);

	return ret < 0 ? -errno : ret;
}

int ng_info(int fd, struct netgpu_info *info)
{
	return ng_ioctl(fd, NETGPU_IOC_INFO, info);
}

int ng_add_region(int fd, const void *addr, uint64_t len)
{
	struct netgpu_add_region r = { .addr = (uintptr_t)addr, .len = len };
	int ret = ng_ioctl(fd, NETGPU_IOC_ADD_REGION, &r);

	return ret ? ret : (int)r.index;
}

int ng_add_dmabuf(int fd, const void *addr, uint64_t len, int dmabuf, uint64_t offset)
{
	struct netgpu_add_region r = {
		.addr = (uintptr_t)addr, .len = len, .type = NETGPU_REGION_DMABUF, .dmabuf_fd = dmabuf, .dmabuf_offset = offset,
	};
	int ret = ng_ioctl(fd, NETGPU_IOC_ADD_REGION, &r);

	return ret ? ret : (int)r.index;
}

int ng_add_cuda(int fd, const void *addr, uint64_t len)
{
	struct netgpu_add_region r = { .addr = (uintptr_t)addr, .len = len, .type = NETGPU_REGION_CUDA };
	int ret = ng_ioctl(fd, NETGPU_IOC_ADD_REGION, &r);

	return ret ? ret : (int)r.index;
}

int ng_bind(int fd, unsigned int ifindex)
{
	struct netgpu_bind b = { .ifindex = ifindex };

	return ng_ioctl(fd, NETGPU_IOC_BIND, &b);
}

int ng_bind_buffers(int fd, unsigned int ifindex, unsigned int buffer_size)
{
	struct netgpu_bind b = { .ifindex = ifindex, .buffer_size = buffer_size };

	return ng_ioctl(fd, NETGPU_IOC_BIND, &b);
}

int ng_attach_region(int fd, int area_fd, unsigned int index)
{
	struct netgpu_attach_region a = { .area_fd = area_fd, .index = index };

	return ng_ioctl(fd, NETGPU_IOC_ATTACH_REGION, &a);
}

int ng_open_queue(int fd, unsigned int queue, unsigned int fill_entries, struct netgpu_open_queue *out)
{
	*out = (struct netgpu_open_queue){ .queue = queue, .fill_entries = fill_entries };
	return ng_ioctl(fd, NETGPU_IOC_OPEN_QUEUE, out);
}

int ng_close_queue(int fd, unsigned int id)
{
	struct netgpu_id arg = { .id = id };

	return ng_ioctl(fd, NETGPU_IOC_CLOSE_QUEUE, &arg);
}

int ng_attach_socket(int fd, int sock, unsigned int rx, unsigned int completion, struct netgpu_attach_socket *out)
{
	*out = (struct netgpu_attach_socket){ .fd = sock, .rx_entries = rx, .completion_entries = completion };
	return ng_ioctl(fd, NETGPU_IOC_ATTACH_SOCKET, out);
}

int ng_detach_socket(int fd, unsigned int id)
{
	struct netgpu_id arg = { .id = id };

	return ng_ioctl(fd, NETGPU_IOC_DETACH_SOCKET, &arg);
}

int ng_queue_stats(int fd, unsigned int id, struct netgpu_queue_stats *stats)
{
	*stats = (struct netgpu_queue_stats){ .id = id };
	return ng_ioctl(fd, NETGPU_IOC_QUEUE_STATS, stats);
}

int ng_socket_stats(int fd, unsigned int id, struct netgpu_socket_stats *stats)
{
	*stats = (struct netgpu_socket_stats){ .id = id };
	return ng_ioctl(fd, NETGPU_IOC_SOCKET_STATS, stats);
}

int ng_context_stats(int fd, struct netgpu_context_stats *stats)
{
	return ng_ioctl(fd, NETGPU_IOC_CONTEXT_STATS, stats);
}

int ng_region_stats(int fd, const void *addr, struct netgpu_region_stats *stats)
{
	*stats = (struct netgpu_region_stats){ .addr = (uintptr_t)addr };
	return ng_ioctl(fd, NETGPU_IOC_REGION_STATS, stats);
}

static void die(const char *what)
{
	perror(what);
	abort();
}

size_t buffer_size(void)
{
	static size_t size;
	struct netgpu_info info;
	int fd;

	if (size)
		return size;
	fd = ng_open();
	if (fd < 0 || ng_info(fd, &info))
		die(NETGPU_PATH);
	close(fd);
	return size = info.buffer_size;
}

static void *memory_of(size_t len, int flags)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	memset(p, 0x5a, len);
	return p;
}

void *memory(size_t len)
{
	return memory_of(len, 0);
}

void *huge_memory(size_t len)
{
	return memory_of(len, MAP_HUGETLB);
}

bool huge_pages(unsigned int count)
{
	unsigned int got = 0;
	FILE *f = fopen("/proc/sys/vm/nr_hugepages", "r+");

	if (!f)
		return false;
	fprintf(f, "%u", count);
	rewind(f);
	if (fscanf(f, "%u", &got) != 1)
		got = 0;
	fclose(f);
	return got >= count;
}

void *hole(size_t len)
{
	void *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED || munmap(p, len))
		die("mmap");
	return p;
}

long long status_bytes(const char *field)
{
	char line[256];
	long long kib = -1;
	FILE *f = fopen("/proc/self/status", "r");

	if (!f)
		die("/proc/self/status");
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)))
			kib = atoll(line + strlen(field));
	fclose(f);
	return kib < 0 ? -1 : kib * 1024;
}

long long pinned_pages(void)
{
	char name[64];
	long long value, pinned = 0;
	FILE *f = fopen("/proc/sys/vm/stat_refresh", "w");

	if (!f || fputs("1", f) < 0 || fclose(f))
		die("/proc/sys/vm/stat_refresh");
	f = fopen("/proc/vmstat", "r");
	if (!f)
		die("/proc/vmstat");
	while (fscanf(f, "%63s %lld", name, &value) == 2) {
		if (!strcmp(name, "nr_foll_pin_acquired"))
			pinned += value;
		else if (!strcmp(name, "nr_foll_pin_released"))
			pinned -= value;
	}
	fclose(f);
	return pinned;
}

int become_nobody(void)
{
	return setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY) ? -errno : 0;
}

int limit_memlock(uint64_t bytes)
{
	struct rlimit limit = { bytes, bytes };

	return setrlimit(RLIMIT_MEMLOCK, &limit) ? -errno : 0;
}

static const char *environment(const char *name)
{
	const char *value = getenv(name);

	if (!value) {
		fprintf(stderr, "%s is not set; start this program through run.sh\n", name);
		abort();
	}
	return value;
}

const char *nic_name(void)
{
	return environment("NETGPU_DEV");
}

unsigned int nic_index(void)
{
	return if_nametoindex(nic_name());
}

int nic_queues(void)
{
	char path[128];
	struct dirent *entry;
	int queues = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/class/net/%s/queues", nic_name());
	dir = opendir(path);
	if (!dir)
		die(path);
	while ((entry = readdir(dir)))
		queues += !strncmp(entry->d_name, "rx-", 3);
	closedir(dir);
	return queues;
}

int peer_socket(int domain, int type, int protocol)
{
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int peer = open(environment("NETGPU_PEER_NS"), O_RDONLY | O_CLOEXEC);
	int fd;

	if (home < 0 || peer < 0 || setns(peer, CLONE_NEWNET))
		die("network namespace of the peer");
	fd = socket(domain, type | SOCK_CLOEXEC, protocol);
	if (fd < 0 || setns(home, CLONE_NEWNET))
		die("socket");
	close(home);
	close(peer);
	return fd;
}

/* Listens on @listener's address, connects @client to it; fds = client's end, listener's end. */
static int pair(int listener, int client, const struct sockaddr *addr, socklen_t len, int fds[2])
{
	struct sockaddr_storage bound;
	socklen_t bound_len = sizeof(bound);
	int err = 0;

	if (listener < 0 || client < 0 || bind(listener, addr, len) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&bound, &bound_len) ||
	    connect(client, (struct sockaddr *)&bound, bound_len)) {
		err = -errno;
		close(client);
	} else {
		fds[0] = client;
		fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fds[1] < 0)
			err = -errno;
	}
	close(listener);
	return err;
}

int tcp_pair(int domain, int fds[2])
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	int listener = peer_socket(domain, SOCK_STREAM, 0);
	int client = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (domain == AF_INET) {
		inet_pton(AF_INET, environment("NETGPU_PEER_ADDR4"), &v4.sin_addr);
		return pair(listener, client, (struct sockaddr *)&v4, sizeof(v4), fds);
	}
	inet_pton(AF_INET6, environment("NETGPU_PEER_ADDR6"), &v6.sin6_addr);
	return pair(listener, client, (struct sockaddr *)&v6, sizeof(v6), fds);
}

int loopback_pair(int fds[2])
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	return pair(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
		    (struct sockaddr *)&addr, sizeof(addr), fds);
}

int sign(int sock, bool on)
{
	struct tcp_md5sig key = { .tcpm_keylen = on ? 4 : 0, .tcpm_key = "key" };
	socklen_t len = sizeof(key.tcpm_addr);

	if (getpeername(sock, (struct sockaddr *)&key.tcpm_addr, &len))
		return -errno;
	return setsockopt(sock, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof(key)) ? -errno : 0;
}

int deaf(int sock, bool on)
{
	struct sock_filter code = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = { .len = 1, .filter = &code };

	return setsockopt(sock, SOL_SOCKET, on ? SO_ATTACH_FILTER : SO_DETACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

void map(struct view *v, int fd, uint64_t offset, uint64_t len, uint32_t entries)
{
	*v = (struct view){ .offset = offset, .len = len, .entries = entries };
	map_again(v, fd);
}

void map_again(struct view *v, int fd)
{
	v->head = mmap(NULL, v->len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, v->offset);
	if (v->head == MAP_FAILED) {
		perror("mmap of a ring");
		abort();
	}
}

uint32_t load(const uint32_t *word)
{
	return atomic_load_explicit((const _Atomic uint32_t *)word, memory_order_acquire);
}

void store(uint32_t *word, uint32_t value)
{
	atomic_store_explicit((_Atomic uint32_t *)word, value, memory_order_release);
}

bool give(struct view *v, uint64_t addr)
{
	struct netgpu_fill_entry *entries = (void *)((char *)v->head + NETGPU_RING_ENTRIES);

	if (v->next - load(&v->head->consumer) >= v->entries)
		return false;
	entries[v->next & (v->entries - 1)].addr = addr;
	store(&v->head->producer, ++v->next);
	return true;
}

bool take(struct view *v, struct netgpu_rx_entry *entry)
{
	struct netgpu_rx_entry *entries = (void *)((char *)v->head + NETGPU_RING_ENTRIES);

	if (v->next == load(&v->head->producer))
		return false;
	*entry = entries[v->next & (v->entries - 1)];
	store(&v->head->consumer, ++v->next);
	return true;
}

/*
 * Byte i is 31 i + 7 (i >> 8) + 3 (i >> 16): multiples of 31, which come again after 256, each 256 bytes from another of them on. So
 * pieces of it are copied and compared, which an emulated processor does much faster than it computes.
 */
static char multiples[2 * 256];

__attribute__((constructor)) static void multiply(void)
{
	size_t i;

	for (i = 0; i < sizeof(multiples); i++)
		multiples[i] = i * 31;
}

/* Where bytes from @from on are, and, in @len, how many of that many. */
static const char *piece(size_t from, size_t *len)
{
	/* 223 * 31 is 1, modulo 256. */
	uint8_t first = ((from >> 8) * 7 + (from >> 16) * 3) * 223;
	size_t left = 256 - from % 256;

	if (*len > left)
		*len = left;
	return multiples + first + from % 256;
}

char pattern(size_t i)
{
	size_t len = 1;

	return *piece(i, &len);
}

void pattern_fill(void *to, size_t from, size_t len)
{
	size_t done, part;
	const char *bytes;

	for (done = 0; done < len; done += part) {
		part = len - done;
		bytes = piece(from + done, &part);
		memcpy((char *)to + done, bytes, part);
	}
}

size_t pattern_match(const void *data, size_t from, size_t len)
{
	const char *bytes = data, *right;
	size_t done, part, i;

	for (done = 0; done < len; done += part) {
		part = len - done;
		right = piece(from + done, &part);
		if (!memcmp(bytes + done, right, part))
			continue;
		for (i = 0; i < part && bytes[done + i] == right[i]; i++)
			;
		return done + i;
	}
	return len;
}

size_t transfer(int ours, int theirs, struct view *fill, struct view *rx, size_t total)
{
	size_t sent = 0, got = 0;
	long long end = now_ms() + 5000 * slowness();
	static char chunk[1 << 16];

	while (got < total && now_ms() < end) {
		struct netgpu_rx_entry e;
		bool idle = true;
		char byte;

		if (sent < total) {
			size_t n = total - sent < sizeof(chunk) ? total - sent : sizeof(chunk);
			ssize_t done;

			pattern_fill(chunk, sent, n);
			done = send(theirs, chunk, n, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (done > 0) {
				sent += done;
				idle = false;
			}
		}
		while (take(rx, &e)) {
			size_t right = pattern_match((void *)(uintptr_t)e.addr, got, e.len);

			got += right;
			if (right != e.len) {
				fprintf(stderr, "# byte %zu is wrong\n", got);
				return got;
			}
			end = now_ms() + 5000 * slowness();
			give(fill, e.addr);
			idle = false;
		}
		/* Moves what waits in the socket; the answer is for other cases. */
		recv(ours, &byte, 1, MSG_DONTWAIT);
		if (idle)
			pause_for_others();
	}
	return got;
}

void pause_for_others(void)
{
	usleep(100);
}

static int receiver_steps(struct receiver *r, int queue)
{
	struct netgpu_attach_socket a;
	struct netgpu_open_queue q;
	struct sockaddr_in local;
	socklen_t len = sizeof(local);
	unsigned int entries = FILL;
	size_t i;
	int ret;

	r->area = ng_open();
	r->fd = ng_open();
	if (r->area < 0 || r->fd < 0)
		return r->fd;
	if (r->dmabuf == HOST_MEMORY)
		ret = ng_add_region(r->area, r->mem, r->len);
	else if (r->dmabuf == CUDA_MEMORY)
		ret = ng_add_cuda(r->area, r->mem, r->len);
	else
		ret = ng_add_dmabuf(r->area, r->mem, r->len, r->dmabuf, 0);
	if (ret != 1)
		return ret;
	ret = ng_bind_buffers(r->fd, nic_index(), r->unit);
	if (ret)
		return ret;
	ret = ng_attach_region(r->fd, r->area, 1);
	if (ret)
		return ret;
	while (entries <= r->len / r->unit)
		entries *= 2;
	ret = ng_open_queue(r->fd, queue, entries, &q);
	if (ret)
		return ret;
	r->queue_id = q.id;
	map(&r->fill, r->fd, q.mmap_offset, q.mmap_len, entries);
	for (i = 0; i < r->len; i += r->unit)
		give(&r->fill, (uintptr_t)r->mem + i);
	ret = tcp_pair(AF_INET, r->pair);
	if (ret)
		return ret;
	if (getsockname(r->pair[0], (struct sockaddr *)&local, &len))
		return -errno;
	if (r->rule && sh("ethtool -N %s flow-type tcp4 dst-port %u action %d loc %u", nic_name(), ntohs(local.sin_port), queue,
			  r->rule))
		return -EIO;
	ret = ng_attach_socket(r->fd, r->pair[0], RING, RING, &a);
	if (ret)
		return ret;
	r->socket_id = a.id;
	r->rx_offset = a.rx_mmap_offset;
	r->completion_offset = a.completion_mmap_offset;
	r->completion_len = a.completion_mmap_len;
	map(&r->rx, r->fd, a.rx_mmap_offset, a.rx_mmap_len, RING);
	return 0;
}

int receiver_open(struct receiver *r, int queue, unsigned int rule)
{
	return receiver_open_on(r, queue, rule, NULL, HOST_MEMORY);
}

int receiver_open_on(struct receiver *r, int queue, unsigned int rule, void *mem, int dmabuf)
{
	return receiver_open_buffers(r, queue, rule, buffer_size(), BUFFERS * buffer_size(), mem, dmabuf);
}

int receiver_open_buffers(struct receiver *r, int queue, unsigned int rule, size_t unit, size_t len, void *mem, int dmabuf)
{
	int ret;

	*r = (struct receiver){ .area = -1, .fd = -1, .pair = { -1, -1 }, .unit = unit, .len = len, .rule = rule, .mem = mem,
				.dmabuf = dmabuf };
	if (!mem)
		r->mem = unit > buffer_size() ? huge_memory(len) : memory(len);
	ret = receiver_steps(r, queue);
	if (ret)
		fprintf(stderr, "# cannot receive on queue %d: %s\n", queue, strerror(-ret));
	return ret;
}

void receiver_close(struct receiver *r)
{
	close(r->pair[0]);
	close(r->pair[1]);
	close(r->fd);
	close(r->area);
	if (r->rule)
		sh("ethtool -N %s delete %u", nic_name(), r->rule);
	if (r->fill.head)
		munmap(r->fill.head, r->fill.len);
	if (r->rx.head)
		munmap(r->rx.head, r->rx.len);
	if (r->mem && r->dmabuf == HOST_MEMORY)
		munmap(r->mem, r->len);
}

static void *keep_sending(void *arg)
{
	static char data[16384];
	struct traffic *t = arg;

	memset(data, 0x5a, sizeof(data));
	while (!atomic_load(&t->stop))
		if (send(t->fd, data, sizeof(data), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			usleep(200);
	return NULL;
}

void traffic_start(struct traffic *t, int fd)
{
	*t = (struct traffic){ .fd = fd };
	if (pthread_create(&t->thread, NULL, keep_sending, t))
		die("pthread_create");
}

void traffic_stop(struct traffic *t)
{
	atomic_store(&t->stop, true);
	pthread_join(t->thread, NULL);
}

int nic_prepare(int queue)
{
	return sh("ethtool -G %s tcp-data-split on && ethtool -X %s equal %d", nic_name(), nic_name(), queue);
}

void nic_restore(void)
{
	sh("ethtool -X %s default; ethtool -G %s tcp-data-split off", nic_name(), nic_name());
}

bool nic_works(void)
{
	return WAIT_FOR(!sh("ping -q -c 1 -W 1 \"$NETGPU_PEER_ADDR4\""), 10000);
}

#define MAX_FDS	4

union fds {
	char buf[CMSG_SPACE(MAX_FDS * sizeof(int))];
	struct cmsghdr align;
};

bool send_fds(int to, const void *data, size_t len, const int *fds, int count)
{
	union fds u = {};
	struct iovec iov = { (void *)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (count > MAX_FDS)
		abort();
	if (count) {
		msg.msg_control = u.buf;
		msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
		u.align = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int)) };
		memcpy(CMSG_DATA(&u.align), fds, count * sizeof(int));
	}
	return sendmsg(to, &msg, 0) == (ssize_t)len;
}

bool receive_fds(int from, void *data, size_t len, int *fds, int count)
{
	union fds u = {};
	struct iovec iov = { data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf) };

	if (recvmsg(from, &msg, MSG_CMSG_CLOEXEC) != (ssize_t)len)
		return false;
	if (!fds)
		return true;
	if (msg.msg_controllen < CMSG_LEN(count * sizeof(int)) || u.align.cmsg_len != CMSG_LEN(count * sizeof(int)))
		return false;
	memcpy(fds, CMSG_DATA(&u.align), count * sizeof(int));
	return true;
}

int bpf_attach(union bpf_attr *program, const void *insns, size_t count, int where, unsigned int ifindex, unsigned int flags)
{
	union bpf_attr create = { .link_create = { .attach_type = where, .target_ifindex = ifindex, .flags = flags } };
	int prog, link;

	program->insns = (uintptr_t)insns;
	program->insn_cnt = count;
	program->license = (uintptr_t)"GPL";
	prog = syscall(SYS_bpf, BPF_PROG_LOAD, program, sizeof(*program));
	if (prog < 0)
		return -errno;
	create.link_create.prog_fd = prog;
	link = syscall(SYS_bpf, BPF_LINK_CREATE, &create, sizeof(create));
	link = link < 0 ? -errno : link;
	close(prog);
	return link;
}

int sh(const char *format, ...)
{
	char line[512], quiet[600];
	va_list args;
	int status;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	snprintf(quiet, sizeof(quiet), "{ %s; } >/dev/null 2>&1", line);
	status = system(quiet);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int slowness(void)
{
	const char *factor = getenv("NETGPU_TEST_SLOW");

	return factor ? atoi(factor) : 1;
}

long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}
