//! A kernel: its declarations, its registers, and the place where instructions become text.

use crate::class::{Bank, Class};
use crate::error::{Error, Problem};
use crate::operand::Print;
use crate::register::{Guard, Reg};
use crate::target::{Needs, Target, Version};
use std::cell::RefCell;
use std::fmt::Write;

/// A kernel in the making. All methods take `&self`, so that instructions nest like expressions and closures need no
/// argument; what is written first is emitted first.
pub struct Kernel {
    target: Target,
    pub(crate) state: RefCell<State>,
}

/// What has been emitted so far.
#[derive(Default)]
pub(crate) struct State {
    name: String,
    section: String,
    pub(crate) params: Vec<String>,
    /// Performance directives: one line each, between the parameters and the body.
    pub(crate) directives: Vec<String>,
    /// Variables of the kernel: `.shared` arrays.
    pub(crate) declarations: Vec<String>,
    /// Variables at module scope that belong to the kernel, by name: dynamic shared memory, constants.
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) names: Vec<String>,
    pub(crate) shared_bytes: usize,
    body: String,
    depth: usize,
    registers: [u32; Bank::ALL.len()],
    labels: u32,
    version: Version,
    errors: Vec<Error>,
}

/// A kernel's share of the module's text.
pub(crate) struct Finished {
    pub text: String,
    pub variables: Vec<(String, String)>,
    pub version: Version,
    pub errors: Vec<Error>,
}

impl Kernel {
    pub(crate) fn new(target: Target, name: &str) -> Self {
        let state = State { name: name.into(), version: target.floor(), ..State::default() };
        let k = Self { target, state: RefCell::new(state) };
        k.declare(name);
        k
    }

    /// A kernel for its registers only.
    pub(crate) fn scratch() -> Self {
        Self::new(Target::Sm120, "scratch")
    }

    /// What the kernel is written for: for a choice between ways to do a thing.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The kernel's name.
    pub fn name(&self) -> String {
        self.state.borrow().name.clone()
    }

    /// A new register without a value.
    pub fn reg<T: Class>(&self) -> Reg<T> {
        let count = &mut self.state.borrow_mut().registers[Reg::<T>::bank() as usize];
        *count += 1;
        Reg::new(*count - 1)
    }

    /// New registers without values.
    pub fn regs<T: Class, const N: usize>(&self) -> [Reg<T>; N] {
        std::array::from_fn(|_| self.reg())
    }

    /// A line of comment.
    pub fn comment(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("// {line}"));
        }
    }

    /// An empty line.
    pub fn blank(&self) {
        self.state.borrow_mut().body.push('\n');
    }

    /// Names the stage that begins here, in the text and in error messages.
    pub fn section(&self, title: &str) {
        self.state.borrow_mut().section = title.into();
        self.blank();
        self.comment(&format!("---- {title} ----"));
    }

    /// Emits one instruction. `template` is its opcode; where it holds `$`, the operands replace them, else they follow
    /// it, the destination first.
    pub(crate) fn emit(
        &self,
        guard: Option<Guard>,
        template: &str,
        needs: Needs,
        to: Option<&dyn Print>,
        operands: &[&dyn Print],
    ) {
        self.require(template, needs);
        let mut operands = to.into_iter().chain(operands.iter().copied());
        let mut text = String::new();
        if let Some(guard) = guard {
            text.push('@');
            guard.print(&mut text);
            text.push(' ');
        }
        if template.contains('$') {
            for c in template.chars() {
                match c {
                    '$' => match operands.next() {
                        Some(operand) => operand.print(&mut text),
                        None => text.push('$'), // of a bad name, which has been noted
                    },
                    c => text.push(c),
                }
            }
        } else {
            text.push_str(template);
            let mut separator = " ";
            for operand in operands {
                text.push_str(separator);
                operand.print(&mut text);
                separator = ", ";
            }
        }
        text.push(';');
        self.line(&text);
    }

    /// Raises the `.version` to what `needs` says, or notes that the target lacks it.
    pub(crate) fn require(&self, template: &str, needs: Needs) {
        let Some(version) = needs.version_on(self.target) else {
            let instruction = template.replace('$', "_");
            return self.problem(Problem::Unsupported { instruction, needs, target: self.target });
        };
        let needed = &mut self.state.borrow_mut().version;
        *needed = version.max(*needed);
    }

    /// Notes that an instruction's parts do not go together, if there is a reason.
    pub(crate) fn check(&self, instruction: &str, fault: Option<&'static str>) {
        if let Some(reason) = fault {
            self.problem(Problem::Malformed { instruction: instruction.into(), reason });
        }
    }

    pub(crate) fn problem(&self, problem: Problem) {
        let state = &mut *self.state.borrow_mut();
        state.errors.push(Error { kernel: state.name.clone(), section: state.section.clone(), problem });
    }

    /// Takes a name for the kernel or something in it. PTX would also allow `$`, but that stands for an operand here; and
    /// `WARP_SZ` is its constant (PTX ISA §4.4).
    pub(crate) fn declare(&self, name: &str) {
        let mut chars = name.chars();
        let start = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !start || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') || ["_", "WARP_SZ"].contains(&name)
        {
            self.problem(Problem::BadName { name: name.into() });
        }
        if self.state.borrow().names.iter().any(|n| n == name) {
            self.problem(Problem::DuplicateName { name: name.into() });
        }
        self.state.borrow_mut().names.push(name.into());
    }

    /// A line of the body.
    pub(crate) fn line(&self, text: &str) {
        let state = &mut *self.state.borrow_mut();
        writeln!(state.body, "{:1$}{text}", "", 4 * (state.depth + 1)).unwrap();
    }

    /// New labels, of one number.
    pub(crate) fn labels<const N: usize>(&self, names: [&str; N]) -> [String; N] {
        let number = &mut self.state.borrow_mut().labels;
        *number += 1;
        names.map(|name| format!("${name}_{number}"))
    }

    /// The place that a label names.
    pub(crate) fn place(&self, label: &str) {
        writeln!(self.state.borrow_mut().body, "{label}:").unwrap();
    }

    /// Emits `inside` one step further to the right.
    pub(crate) fn indented<R>(&self, inside: impl FnOnce() -> R) -> R {
        self.state.borrow_mut().depth += 1;
        let result = inside();
        self.state.borrow_mut().depth -= 1;
        result
    }

    pub(crate) fn finish(self) -> Finished {
        let state = self.state.into_inner();
        let mut text = format!(".visible .entry {}(", state.name);
        for (i, param) in state.params.iter().enumerate() {
            write!(text, "{}\n    {param}", if i == 0 { "" } else { "," }).unwrap();
        }
        text.push_str(if state.params.is_empty() { ")\n" } else { "\n)\n" });
        for directive in &state.directives {
            writeln!(text, "{directive}").unwrap();
        }
        text.push_str("{\n");
        for bank in Bank::ALL {
            let count = state.registers[bank as usize];
            if count > 0 {
                writeln!(text, "    .reg {} {}<{count}>;", bank.declared(), bank.prefix()).unwrap();
            }
        }
        for declaration in &state.declarations {
            writeln!(text, "    {declaration}").unwrap();
        }
        write!(text, "\n{}    ret;\n}}\n", state.body).unwrap();
        Finished { text, variables: state.variables, version: state.version, errors: state.errors }
    }
}
