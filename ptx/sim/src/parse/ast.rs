//! What the parser makes of a module: names are not resolved, opcodes not understood.

use super::types::Type;

/// A module.
#[derive(Debug)]
pub struct Module {
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// The line of `.version`.
    pub version_line: u32,
    /// `.target`, e.g. `sm_90a`.
    pub target: String,
    /// Module-scope variables.
    pub variables: Vec<Variable>,
    /// Kernels.
    pub entries: Vec<Entry>,
}

/// State spaces of variables and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// `.global`
    Global,
    /// `.shared`
    Shared,
    /// `.const`
    Const,
    /// `.local`
    Local,
    /// `.param`
    Param,
}

/// A variable or a kernel parameter.
#[derive(Clone, Debug)]
pub struct Variable {
    pub space: Space,
    pub name: String,
    /// In bytes, at least the type's own.
    pub align: usize,
    /// In bytes; 0 for `.extern .shared name[]`.
    pub size: usize,
    /// Initial bytes (padded with zeros to `size` when used); empty when there is no initializer.
    pub init: Vec<u8>,
    /// `.extern`
    pub external: bool,
    pub line: u32,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub params: Vec<Variable>,
    pub limits: Limits,
    pub body: Vec<Statement>,
    pub line: u32,
}

/// Performance directives; the launch is checked against them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub maxntid: Option<[u32; 3]>,
    pub reqntid: Option<[u32; 3]>,
    pub reqnctapercluster: Option<[u32; 3]>,
    pub maxnreg: Option<u32>,
}

/// One statement of a body.
#[derive(Debug)]
pub enum Statement {
    /// `.reg` declarations: type and name, or name and count for `name<count>`.
    Registers(Type, Vec<(String, Option<u32>)>, u32),
    Variable(Variable),
    Label(String, u32),
    Instruction(Instruction),
    /// `{ … }`: names declared inside end with it.
    Scope(Vec<Statement>),
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// `@p` (false) or `@!p` (true).
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    /// What follows the opcode, without the dots.
    pub modifiers: Vec<String>,
    pub operands: Vec<Operand>,
    pub line: u32,
}

impl Instruction {
    /// Opcode and modifiers as written.
    pub fn full_name(&self) -> String {
        let mut name = self.opcode.clone();
        for modifier in &self.modifiers {
            name.push('.');
            name.push_str(modifier);
        }
        name
    }
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, special register, variable or label; `_` is the sink.
    Name(String),
    /// `variable+offset`.
    Offset(String, i64),
    Int(i64),
    F32(u32),
    F64(u64),
    /// `{a, b, …}`
    Vector(Vec<Operand>),
    /// `[base+offset]`; the base is a name or a constant.
    Address(Box<Operand>, i64),
    /// `[map, {coordinates}]` of tensor copies.
    TensorAddress(Box<Operand>, Vec<Operand>),
    /// `a|b`
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`
    Not(String),
}
