// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * exchange ADDRESS PORT <FILE >BACK: sends what it reads and, at the same time, whatever the other end does, writes what it receives. (nc
 * does not receive while it waits to send.)
 */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* From one descriptor to the other, to the end. */
static void copy(int from, int to)
{
	static char buffer[65536];
	ssize_t len, part;

	while ((len = read(from, buffer, sizeof(buffer))) > 0)
		for (char *at = buffer; len > 0; at += part, len -= part)
			if ((part = write(to, at, len)) < 0)
				err(1, "cannot write");
	if (len < 0)
		err(1, "cannot read");
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0), status;
	pid_t child;

	if (argc != 3 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
		errx(2, "usage: exchange ADDRESS PORT <FILE >BACK");
	address.sin_port = htons(atoi(argv[2]));
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "cannot connect");
	child = fork();
	if (child < 0)
		err(1, "cannot fork");
	if (child == 0) {
		copy(STDIN_FILENO, fd);
		if (shutdown(fd, SHUT_WR))
			err(1, "cannot shut down");
		return 0;
	}
	copy(fd, STDOUT_FILENO);
	if (wait(&status) < 0)
		err(1, "cannot wait");
	return status != 0;
}
