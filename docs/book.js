// SPDX-License-Identifier: MIT OR Apache-2.0
// Debian's mdBook names this file in each page and does not bring it. The menu of themes, which it would open, has no use without it.
document.getElementById('theme-toggle')?.remove();
