/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * netgpu.h for programs that were written for the library of 2020: by the name that they include, and with the macros that they have
 * from it. Those end the program with a message when something failed; for them a program includes <error.h> and <errno.h>.
 */
#ifndef NETGPU_LIB_H
#define NETGPU_LIB_H

#include <netgpu.h>

#ifndef array_size
#define array_size(array) (sizeof(array) / sizeof((array)[0]))
#endif

#ifndef ERROR_HERE
#define ERROR_HERE(status, errnum, ...) error_at_line(status, errnum, __FILE__, __LINE__, __VA_ARGS__)
#endif

/* What is true. */
#ifndef CHECK_MSG
#define CHECK_MSG(condition, ...) do {					\
	if (!(condition))						\
		ERROR_HERE(1, 0, __VA_ARGS__);				\
} while (0)
#endif
#ifndef CHECK
#define CHECK(condition) CHECK_MSG(condition, "%s", #condition)
#endif

/* What returns less than 0 and sets errno, or a negative errno value, when it fails. */
#ifndef CHK_SYS
#define CHK_SYS(call) do {						\
	if ((call) < 0)							\
		ERROR_HERE(1, errno, "%s", #call);			\
} while (0)
#endif
#ifndef CHK_ERR
#define CHK_ERR(call) do {						\
	int netgpu_lib_ret = (call);					\
	if (netgpu_lib_ret < 0)						\
		ERROR_HERE(1, -netgpu_lib_ret, "%s", #call);		\
} while (0)
#endif

#endif
