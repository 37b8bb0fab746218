// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a check has found.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Ok,
    /// netgpu works, but not with everything, or not as well as it could.
    Warn,
    /// This stops netgpu.
    Fail,
    /// Not checked; the text says why.
    Skip,
}

impl Status {
    /// As it is printed.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was checked; scripts may rely on the name.
    pub(crate) check: &'static str,
    pub(crate) status: Status,
    pub(crate) text: String,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn new(check: &'static str, status: Status, text: impl Into<String>) -> Self {
        Self {
            check,
            status,
            text: text.into(),
            mend: None,
        }
    }

    pub(crate) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, text)
    }

    pub(crate) fn warn(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Status::Warn, text)
    }

    pub(crate) fn fail(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Status::Fail, text)
    }

    pub(crate) fn skip(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Status::Skip, why)
    }

    /// With the command that mends it.
    pub(crate) fn mend(self, command: impl Into<String>) -> Self {
        Self {
            mend: Some(command.into()),
            ..self
        }
    }
}
