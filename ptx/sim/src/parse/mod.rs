//! PTX text to a syntax tree.

mod ast;
mod lexer;
mod module;
mod operand;
mod types;

pub use ast::{Entry, Instruction, Limits, Operand, Space, Statement, Variable};
pub use module::parse;
pub use types::Type;

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line in the text, from 1.
    pub line: u32,
    /// What is wrong there.
    pub text: String,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ptxas application ptx input, line {}; error: {}", self.line, self.text)
    }
}

/// A parser's result.
pub type Result<T, E = ParseError> = std::result::Result<T, E>;
