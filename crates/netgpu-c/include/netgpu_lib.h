/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The name under which programs written for the library of 2020 include netgpu.h. */
#ifndef NETGPU_LIB_H
#define NETGPU_LIB_H

#include <netgpu.h>

#endif
