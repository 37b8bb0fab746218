#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=dash
#
# In the guest: both ports, a command, and packets that are on their way when this has ended.
cd "$(dirname "$0")" || exit 1
. ../lib/ktap.sh
. ../lib/nic.sh

nic_up
"${@:-true}"
ip netns exec peer ping -q -i 0.002 -s 1000 "$NETGPU_ADDR4" >/dev/null 2>&1 &
ping -q -i 0.002 -s 1000 "$NETGPU_PEER_ADDR4" >/dev/null 2>&1 &
