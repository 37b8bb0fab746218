// SPDX-License-Identifier: GPL-2.0
/* The trace events, with functions for Rust to call. */
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "netgpu_trace.h"
