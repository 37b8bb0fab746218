#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# What a program and its surroundings do to one another while data arrives: exec, namespaces, changes of the device, waiting. The
# orders in which things are let go, and programs that are killed, are in ../teardown.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh
. ../lib/check.sh

# It came back without its settings.
port_is_set_up_again() {
	NETGPU_DEV=$(nic_devices | sed -n 1p)
	nic_configure
}

plan 5
nic_up
modprobe netgpu || echo "# modprobe netgpu failed"
pinned_at_first=$(pinned_pages)
kmemleak_clear
program life ./life -T driver_is_unbound
program unbind ./life -t driver_is_unbound
run port_is_set_up_again
run nothing_is_left
run kmemleak_check
finish
