#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# That the plugin of QEMU counts the guest's instructions, and its accesses to the memory that a program names.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh

plan 1
program count tcg-count
finish
