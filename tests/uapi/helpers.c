// SPDX-License-Identifier: MIT OR Apache-2.0
#include "helpers.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <sys/resource.h>
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

int ng_bind(int fd, unsigned int ifindex)
{
	struct netgpu_bind b = { .ifindex = ifindex };

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

static void die(const char *what)
{
	perror(what);
	abort();
}

size_t buffer_size(void)
{
	struct netgpu_info info;
	int fd = ng_open();

	if (fd < 0 || ng_info(fd, &info))
		die(NETGPU_PATH);
	close(fd);
	return info.buffer_size;
}

void *memory(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	memset(p, 0x5a, len);
	return p;
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

long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}
