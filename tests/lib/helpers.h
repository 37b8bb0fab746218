/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the programs of this area share: calls that answer -errno, memory, network namespaces, TCP connections. */
#ifndef HELPERS_H
#define HELPERS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include <linux/netgpu.h>

#define NETGPU_PATH	"/dev/netgpu"
#define ARRAY_LEN(a)	(sizeof(a) / sizeof((a)[0]))

/* A user without any right, for the cases of EPERM and RLIMIT_MEMLOCK. */
#define NOBODY		65534

/* Every wrapper answers 0 or more, or -errno. */
int ng_open(void);
int ng_ioctl(int fd, unsigned long cmd, void *arg);
int ng_info(int fd, struct netgpu_info *info);
/* The region's number, from one. */
int ng_add_region(int fd, const void *addr, uint64_t len);
int ng_add_dmabuf(int fd, const void *addr, uint64_t len, int dmabuf, uint64_t offset);
int ng_add_cuda(int fd, const void *addr, uint64_t len);
int ng_bind(int fd, unsigned int ifindex);
/* With receive buffers of @buffer_size bytes. */
int ng_bind_buffers(int fd, unsigned int ifindex, unsigned int buffer_size);
int ng_attach_region(int fd, int area_fd, unsigned int index);
int ng_open_queue(int fd, unsigned int queue, unsigned int fill_entries, struct netgpu_open_queue *out);
int ng_close_queue(int fd, unsigned int id);
int ng_attach_socket(int fd, int sock, unsigned int rx, unsigned int completion, struct netgpu_attach_socket *out);
int ng_detach_socket(int fd, unsigned int id);
int ng_queue_stats(int fd, unsigned int id, struct netgpu_queue_stats *stats);
int ng_socket_stats(int fd, unsigned int id, struct netgpu_socket_stats *stats);
int ng_context_stats(int fd, struct netgpu_context_stats *stats);
/* Of the region that @addr lies in. */
int ng_region_stats(int fd, const void *addr, struct netgpu_region_stats *stats);

/* Bytes of the smallest receive buffer, of which regions are made. */
size_t buffer_size(void);

/* Anonymous memory, written once so that it is there. MAP_FAILED becomes an abort: tests do not go on without memory. */
void *memory(size_t len);
/* The same in huge pages, of HUGE bytes, which @len is a multiple of. The system has to have some, see huge_pages(). */
#define HUGE	(2UL << 20)
void *huge_memory(size_t len);
/* Has the system have so many huge pages. False: it cannot. */
bool huge_pages(unsigned int count);
/* Address space that no mapping uses. */
void *hole(size_t len);

/* Value of a field such as "VmPin:" of /proc/self/status, in bytes; -1 when there is none. */
long long status_bytes(const char *field);
/* Pages pinned for long and not yet released, over the whole machine. */
long long pinned_pages(void);

/* Gives up every capability and becomes NOBODY. */
int become_nobody(void);
/* RLIMIT_MEMLOCK. */
int limit_memlock(uint64_t bytes);

/* The ports, from the environment that run.sh sets: NETGPU_DEV and so on. */
const char *nic_name(void);
unsigned int nic_index(void);
/* Number of receive queues of our port. */
int nic_queues(void);
/* A socket in the namespace of the other port. */
int peer_socket(int domain, int type, int protocol);

/*
 * A TCP connection over the cable: fds[0] is our end, fds[1] the other machine's. @domain is AF_INET or AF_INET6.
 */
int tcp_pair(int domain, int fds[2]);
/* A TCP connection over loopback. */
int loopback_pair(int fds[2]);

/* Has both directions of a TCP connection signed (TCP-MD5), or no longer, by this end. 0 or -errno. */
int sign(int sock, bool on);

/* Has TCP on @sock drop whatever comes, or no longer. 0 or -errno. */
int deaf(int sock, bool on);

/* A ring as its user sees it. */
struct view {
	struct netgpu_ring *head;
	uint64_t offset;	/* for mmap(2) */
	size_t len;
	uint32_t entries;
	uint32_t next;	/* our index */
};

/* Maps a ring of @entries, or aborts. */
void map(struct view *v, int fd, uint64_t offset, uint64_t len, uint32_t entries);
/* The same ring, in a process that got @fd and a copy of @v, and goes on where that is. */
void map_again(struct view *v, int fd);
uint32_t load(const uint32_t *word);
void store(uint32_t *word, uint32_t value);
/* Puts one address on the fill ring. False: no room. */
bool give(struct view *v, uint64_t addr);
/* Takes one entry off the rx ring. False: it is empty. */
bool take(struct view *v, struct netgpu_rx_entry *entry);

/* Byte @i of the stream that tests send. */
char pattern(size_t i);
/* The @len bytes of it from byte @from on, to @to. */
void pattern_fill(void *to, size_t from, size_t len);
/* How many of the @len bytes at @data are those from byte @from on: up to the first that is not. */
size_t pattern_match(const void *data, size_t from, size_t len);
/*
 * Sends @total bytes of the pattern from the other machine and receives them, giving every buffer back. The number of
 * bytes that arrived right: less than @total when something is wrong, or nothing came for five seconds.
 */
size_t transfer(int ours, int theirs, struct view *fill, struct view *rx, size_t total);

/* For a loop that has found nothing to do: whoever it waits for needs the processors, too. */
void pause_for_others(void);

/*
 * All that receiving takes: a region of BUFFERS buffers in an area, a context, a queue that has all of them, and a
 * connection over the cable that is attached.
 */
#define BUFFERS	256
#define FILL	512
#define RING	64

struct receiver {
	int area;
	int fd;			/* the context */
	int pair[2];		/* our end, the other machine's end */
	size_t unit;		/* bytes of a buffer */
	size_t len;
	char *mem;
	int dmabuf;		/* or one of the below */
	uint32_t queue_id;
	uint32_t socket_id;
	struct view fill;
	struct view rx;
	uint64_t rx_offset;	/* where that is mapped from */
	uint64_t completion_offset;	/* of the completion ring, which is not mapped */
	uint64_t completion_len;
	unsigned int rule;	/* location of the steering rule, or 0 */
};

/* On @queue of our port; with @rule, a free location, the connection is steered there. 0 or -errno. */
int receiver_open(struct receiver *r, int queue, unsigned int rule);
#define HOST_MEMORY	(-1)
#define CUDA_MEMORY	(-2)
/* The same with a dma-buf, whose first BUFFERS buffers are at @mem, or with memory of a GPU there. */
int receiver_open_on(struct receiver *r, int queue, unsigned int rule, void *mem, int dmabuf);
/* The same with @len bytes in buffers of @unit bytes. Host memory for larger ones than usual is in huge pages. */
int receiver_open_buffers(struct receiver *r, int queue, unsigned int rule, size_t unit, size_t len, void *mem, int dmabuf);
/* Whatever of it is still open. */
void receiver_close(struct receiver *r);
/* Sets header split and keeps all but steered traffic away from @queue; 0 if it could be done. */
int nic_prepare(int queue);
void nic_restore(void);
/* Within ten seconds. */
bool nic_works(void);

/* A thread that sends from @fd, and does not wait for who receives. */
struct traffic {
	int fd;
	atomic_bool stop;
	pthread_t thread;
};

void traffic_start(struct traffic *t, int fd);
void traffic_stop(struct traffic *t);

/* Passes descriptors, four at most, with @len bytes of @data over a socket of AF_UNIX. False: it could not. */
bool send_fds(int to, const void *data, size_t len, const int *fds, int count);
/* The other end: @fds may be NULL, for a message without any. MSG_CMSG_CLOEXEC holds for them. */
bool receive_fds(int from, void *data, size_t len, int *fds, int count);

/* A link that holds @program, of @insns, at device @ifindex, or -errno. */
union bpf_attr;
int bpf_attach(union bpf_attr *program, const void *insns, size_t count, int where, unsigned int ifindex, unsigned int flags);

/* Runs a command line; its exit status. Output goes to /dev/null. */
int sh(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Milliseconds of the monotonic clock. */
long long now_ms(void);

/* How many times slower than usual everything may be: on kernels with debugging. */
int slowness(void);

/*
 * Waits until @cond holds or @ms have passed, as many times over as everything is slower; the value is whether it held. Looks less often
 * the longer it takes: a look may be long work itself.
 */
#define WAIT_FOR(cond, ms) ({						\
	long long __end = now_ms() + (ms) * slowness();		\
	unsigned int __nap = 1000;					\
	bool __held;							\
	while (!(__held = (cond)) && now_ms() < __end) {		\
		usleep(__nap);						\
		__nap = __nap < 16000 ? 2 * __nap : __nap;		\
	}								\
	__held;								\
})

#endif
