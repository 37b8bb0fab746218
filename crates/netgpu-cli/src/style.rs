// SPDX-License-Identifier: MIT OR Apache-2.0
//! Colours, which are for terminals only: `anstream` leaves them out elsewhere.

use anstyle::{AnsiColor, Style};

/// A command that the user may type.
pub(crate) const COMMAND: Style = AnsiColor::Cyan.on_default();
