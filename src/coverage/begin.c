// SPDX-License-Identifier: GPL-2.0
/* Linked first in the flavour that counts what runs: where the sections begin that end.c gives out. */
#include "sections.h"

COVERAGE_SECTIONS(begin);
