//! What is wrong with a configuration, and where.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, counted in characters from 1.
    pub column: usize,
    /// The value in question, such as `services[3].servers[0].weight`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Everything that is wrong with a file, in the order of the file; never empty.
///
/// Displayed as one line for each complaint: `FILE:LINE:COLUMN: PATH: MESSAGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaints {
    file_name: String,
    list: Vec<Complaint>,
}

impl Complaints {
    /// The complaints, in the order of the file.
    pub fn as_slice(&self) -> &[Complaint] {
        &self.list
    }
}

impl std::error::Error for Complaints {}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Complaint { line, column, path, message }) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{line}:{column}: ", self.file_name)?;
            if !path.is_empty() {
                write!(f, "{path}: ")?;
            }
            f.write_str(message)?;
        }
        Ok(())
    }
}

/// Collects what is found wrong, by byte offset, while a text is read.
pub(super) struct Findings<'a> {
    text: &'a str,
    /// The offset at which each line begins.
    lines: Vec<usize>,
    found: Vec<Finding>,
}

struct Finding {
    offset: usize,
    path: String,
    message: String,
}

impl<'a> Findings<'a> {
    pub(super) fn new(text: &'a str) -> Findings<'a> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Findings { text, lines, found: Vec::new() }
    }

    /// The text that is being read.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Notes that what stands at `offset` is wrong.
    pub(super) fn add(&mut self, offset: usize, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(Finding { offset, path: path.into(), message: message.into() });
    }

    /// The number of the line, from 1, in which `offset` lies.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found, as complaints about `file_name`.
    pub(super) fn into_complaints(mut self, file_name: &str) -> Complaints {
        self.found.sort_by_key(|finding| finding.offset);
        let found = std::mem::take(&mut self.found);
        let list = found
            .into_iter()
            .map(|Finding { offset, path, message }| {
                let line = self.line(offset);
                let column = self.text[self.lines[line - 1]..offset].chars().count() + 1;
                Complaint { line, column, path, message }
            })
            .collect();
        Complaints { file_name: file_name.to_owned(), list }
    }
}
