//! A kernel: its declarations, its registers, and the place where instructions become text.

use crate::class::{B32, B64, Bank, Class, F32};
use crate::error::{Error, Problem};
use crate::operand::{Operand, Print};
use crate::register::{Destination, Guard, Reg};
use crate::target::{ANY, Needs, Target, Version};
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
    /// Variables at module scope that belong to the kernel: its dynamic shared memory.
    pub(crate) variables: String,
    pub(crate) names: Vec<String>,
    pub(crate) shared_bytes: usize,
    body: String,
    depth: usize,
    registers: [u32; Bank::ALL.len()],
    labels: u32,
    version: Option<Version>,
    errors: Vec<Error>,
}

/// A kernel's share of the module's text.
pub(crate) struct Finished {
    pub text: String,
    pub variables: String,
    pub version: Version,
    pub errors: Vec<Error>,
}

impl Kernel {
    pub(crate) fn new(target: Target, name: &str) -> Self {
        let k = Self { target, state: RefCell::new(State { name: name.into(), ..State::default() }) };
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

    /// A copy in a new register, or a constant in one: `mov`. The start of a variable that a loop carries.
    pub fn mov<T: Class>(&self, from: impl Into<Operand<T>>) -> Reg<T> {
        let to = self.reg();
        self.to(to).mov(from);
        to
    }

    /// `N` registers, all of one value.
    pub fn splat<T: Class, const N: usize>(&self, from: impl Into<Operand<T>>) -> [Reg<T>; N] {
        let from = from.into();
        std::array::from_fn(|_| self.mov(from))
    }

    /// The next instruction writes these registers instead of new ones: `k.to(sum).add_rn_f32(sum, x)`.
    pub fn to<D: Destination>(&self, to: D) -> To<'_, D> {
        To { kernel: self, guard: None, to }
    }

    /// The next instruction is executed where `p` holds only: `k.when(p).st_global::<B32>(a, x)`. One that writes a
    /// register needs `.to(register)`, because the register keeps its value elsewhere.
    pub fn when(&self, p: impl Into<Guard>) -> When<'_> {
        When { kernel: self, guard: p.into() }
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
                    '$' => operands.next().expect("as many operands as places").print(&mut text),
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
        *needed = Some(needed.map_or(version, |v| v.max(version)));
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

    /// Takes a name for the kernel or something in it.
    pub(crate) fn declare(&self, name: &str) {
        let mut chars = name.chars();
        let start = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !start || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$') || name == "_" {
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
        Finished {
            text,
            variables: state.variables,
            version: state.version.unwrap_or(self.target.floor()),
            errors: state.errors,
        }
    }
}

/// The destination of the next instruction: see [`Kernel::to`].
#[must_use = "names the destination of an instruction that does not follow"]
pub struct To<'k, D> {
    pub(crate) kernel: &'k Kernel,
    pub(crate) guard: Option<Guard>,
    pub(crate) to: D,
}

/// The guard of the next instruction: see [`Kernel::when`].
#[must_use = "guards an instruction that does not follow"]
pub struct When<'k> {
    pub(crate) kernel: &'k Kernel,
    pub(crate) guard: Guard,
}

impl<'k> When<'k> {
    /// The instruction writes these registers, where the guard holds.
    pub fn to<D: Destination>(self, to: D) -> To<'k, D> {
        To { kernel: self.kernel, guard: Some(self.guard), to }
    }
}

impl<'k, D> To<'k, D> {
    /// The instruction is executed where `p` holds only; elsewhere its destination keeps its value.
    pub fn when(self, p: impl Into<Guard>) -> Self {
        Self { guard: Some(p.into()), ..self }
    }
}

impl<T: Class> To<'_, Reg<T>> {
    /// `mov`
    pub fn mov(self, from: impl Into<Operand<T>>) {
        self.kernel.emit(self.guard, &format!("mov.{}", T::MOV), ANY, Some(&self.to), &[&from.into()]);
    }
}

impl Kernel {
    /// A variable of 32 bits for a loop to carry.
    pub fn var_u32(&self, start: impl Into<Operand<B32>>) -> Reg<B32> {
        self.mov(start)
    }

    /// A variable of 64 bits for a loop to carry.
    pub fn var_u64(&self, start: impl Into<Operand<B64>>) -> Reg<B64> {
        self.mov(start)
    }

    /// An f32 variable for a loop to carry.
    pub fn var_f32(&self, start: impl Into<Operand<F32>>) -> Reg<F32> {
        self.mov(start)
    }
}
