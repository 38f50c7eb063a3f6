//! Names to registers and addresses; the walk over a kernel's body.

use std::collections::{HashMap, HashSet, VecDeque};

use super::decode_instruction;
use super::{Guard, Instr, Kernel, Op, Param, Special};
use crate::exec::lanes::{Class, Reg, Registers, WARP};
use crate::parse::{Entry, Instruction, Operand, ParseError, Space, Statement, Type, Variable};

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Symbol {
    Register(Reg),
    /// An address or an offset in a state space.
    Variable(Space, u64),
    Label(usize),
}

/// Names of a scope.
pub type Symbols = HashMap<String, Symbol>;

/// Decodes one kernel. `globals` are the module's variables outside shared memory, `shared` those inside.
pub fn decode(entry: &Entry, globals: &Symbols, shared: &[Variable]) -> Result<Kernel, ParseError> {
    let mut d = Decoder { scopes: vec![globals.clone()], ..Decoder::default() };
    d.carry = d.new_register(Class::Pred).index;
    let params = d.parameters(entry);
    d.place_shared(entry, shared);
    let dynamic_shared_at = d.dynamic_shared_at;
    d.scope(&entry.body)?;
    for (at, label) in std::mem::take(&mut d.branches) {
        // A scope's labels are placed when the scope has been walked.
        d.code[at].op = Op::Branch(d.labels[label]);
    }
    let line = entry.body.last().map_or(entry.line, last_line);
    let name = d.name_id("(end)".into());
    d.code.push(Instr { op: Op::Exit, guard: None, line, name });
    d.uses.push(Box::default());
    Ok(Kernel {
        name: entry.name.clone(),
        param_size: params.last().map_or(0, |p: &Param| p.offset + p.size),
        params,
        static_shared: d.static_shared,
        dynamic_shared_at,
        local_size: d.local_size,
        limits: entry.limits,
        code: d.code,
        registers: d.registers,
        specials: d.specials.into_iter().collect(),
        names: d.names,
        uses: if d.has_wgmma { d.uses } else { Vec::new() },
    })
}

fn last_line(statement: &Statement) -> u32 {
    match statement {
        Statement::Registers(_, _, line) | Statement::Label(_, line) => *line,
        Statement::Variable(v) => v.line,
        Statement::Instruction(i) => i.line,
        Statement::Scope(s) => s.last().map_or(0, last_line),
    }
}

/// The state of decoding one kernel.
#[derive(Default)]
pub struct Decoder {
    scopes: Vec<Symbols>,
    pub(super) registers: Registers,
    constants: HashMap<(Class, u128), u16>,
    specials: HashMap<Special, Reg>,
    code: Vec<Instr>,
    uses: Vec<Box<[u16]>>,
    has_wgmma: bool,
    labels: Vec<u32>,
    /// Branches to patch: instruction and label.
    branches: Vec<(usize, usize)>,
    names: Vec<String>,
    name_ids: HashMap<String, u16>,
    static_shared: u32,
    dynamic_shared_at: u32,
    local_size: u32,
    /// Offsets of the body's shared variables in the order of their declarations.
    shared_offsets: VecDeque<u32>,
    /// The condition code of `add.cc` and its kin.
    pub(super) carry: u16,
}

/// The class of registers declared with a type.
pub const fn class_of(ty: Type) -> Class {
    match ty {
        Type::Pred => Class::Pred,
        _ => match ty.size() {
            1 => Class::B8,
            2 => Class::B16,
            4 => Class::B32,
            8 => Class::B64,
            _ => Class::B128,
        },
    }
}

impl Decoder {
    fn parameters(&mut self, entry: &Entry) -> Vec<Param> {
        let mut end = 0usize;
        let scope = self.scopes.last_mut().expect("the outermost scope");
        let place = |p: &Variable| {
            let offset = end.next_multiple_of(p.align);
            end = offset + p.size;
            scope.insert(p.name.clone(), Symbol::Variable(Space::Param, offset as u64));
            Param { offset, size: p.size }
        };
        entry.params.iter().map(place).collect()
    }

    /// Static shared variables in the order of their declarations, the module's first (those that the kernel names), then
    /// the dynamic arrays, which all start at one place.
    fn place_shared(&mut self, entry: &Entry, module: &[Variable]) {
        fn walk<'a>(body: &'a [Statement], names: &mut HashSet<&'a str>, declared: &mut Vec<&'a Variable>) {
            for statement in body {
                match statement {
                    Statement::Scope(body) => walk(body, names, declared),
                    Statement::Variable(v) if v.space == Space::Shared => declared.push(v),
                    Statement::Instruction(i) => i.operands.iter().for_each(|o| operand_names(o, names)),
                    _ => {}
                }
            }
        }
        fn operand_names<'a>(operand: &'a Operand, names: &mut HashSet<&'a str>) {
            match operand {
                Operand::Name(name) | Operand::Offset(name, _) => drop(names.insert(name)),
                Operand::Address(base, _) | Operand::TensorAddress(base, _) => operand_names(base, names),
                _ => {}
            }
        }
        let (mut names, mut declared) = (HashSet::new(), Vec::new());
        walk(&entry.body, &mut names, &mut declared);
        let used: Vec<&Variable> = module.iter().filter(|v| names.contains(v.name.as_str())).collect();
        let all = || used.iter().chain(&declared);
        let mut offsets = HashMap::new();
        for v in all().filter(|v| !v.external) {
            let offset = self.static_shared.next_multiple_of(v.align as u32);
            self.static_shared = offset + v.size as u32;
            offsets.insert(std::ptr::from_ref(*v), offset);
        }
        let align = all().filter(|v| v.external).map(|v| v.align as u32).max().unwrap_or(1);
        self.dynamic_shared_at = self.static_shared.next_multiple_of(align);
        let offset =
            |v: &&Variable| offsets.get(&std::ptr::from_ref(*v)).copied().unwrap_or(self.dynamic_shared_at);
        self.shared_offsets = declared.iter().map(offset).collect();
        for v in &used {
            let symbol = Symbol::Variable(Space::Shared, u64::from(offset(v)));
            self.scopes[0].insert(v.name.clone(), symbol);
        }
    }

    fn scope(&mut self, body: &[Statement]) -> Result<(), ParseError> {
        self.scopes.push(Symbols::new());
        for statement in body {
            if let Statement::Label(name, line) = statement {
                let label = Symbol::Label(self.labels.len());
                self.labels.push(0);
                self.declare(name, label, *line)?;
            }
        }
        for statement in body {
            match statement {
                Statement::Registers(ty, names, line) => {
                    for (name, count) in names {
                        let Some(count) = count else {
                            let register = self.new_register(class_of(*ty));
                            self.declare(name, Symbol::Register(register), *line)?;
                            continue;
                        };
                        for k in 0..*count {
                            let register = self.new_register(class_of(*ty));
                            self.declare(&format!("{name}{k}"), Symbol::Register(register), *line)?;
                        }
                    }
                }
                Statement::Variable(v) => {
                    let at = match v.space {
                        Space::Shared => self.shared_offsets.pop_front().expect("placed before"),
                        Space::Local => {
                            let at = self.local_size.next_multiple_of(v.align as u32);
                            self.local_size = at + v.size as u32;
                            at
                        }
                        _ => {
                            let text = "only .shared and .local variables may be declared in a body".into();
                            return Err(ParseError { line: v.line, text });
                        }
                    };
                    self.declare(&v.name, Symbol::Variable(v.space, u64::from(at)), v.line)?;
                }
                Statement::Label(name, _) => {
                    if let Some(Symbol::Label(label)) = self.find(name) {
                        self.labels[label] = self.code.len() as u32;
                    }
                }
                Statement::Instruction(i) => self.instruction(i)?,
                Statement::Scope(body) => self.scope(body)?,
            }
        }
        self.scopes.pop();
        Ok(())
    }

    fn instruction(&mut self, i: &Instruction) -> Result<(), ParseError> {
        let name = i.full_name();
        let located = |text: String| ParseError { line: i.line, text: format!("{text}, in '{name}'") };
        let guard = match &i.guard {
            None => None,
            Some((name, negated)) => {
                let pred = self.register(name, Class::Pred).map_err(located)?;
                Some(Guard { pred, negated: *negated })
            }
        };
        let op = decode_instruction(self, i).map_err(located)?;
        let name = self.name_id(name);
        self.code.push(Instr { op, guard, line: i.line, name });
        let mut uses = Vec::new();
        i.operands.iter().for_each(|operand| self.registers_of(operand, &mut uses));
        self.uses.push(uses.into());
        self.has_wgmma |= i.opcode == "wgmma";
        Ok(())
    }

    /// The 32-bit registers that an operand names.
    fn registers_of(&self, operand: &Operand, into: &mut Vec<u16>) {
        match operand {
            Operand::Name(name) => {
                if let Some(Symbol::Register(Reg { class: Class::B32, index })) = self.find(name) {
                    into.push(index);
                }
            }
            Operand::Vector(parts) => parts.iter().for_each(|part| self.registers_of(part, into)),
            Operand::Address(base, _) => self.registers_of(base, into),
            Operand::TensorAddress(base, coordinates) => {
                self.registers_of(base, into);
                coordinates.iter().for_each(|c| self.registers_of(c, into));
            }
            Operand::Pair(a, b) => {
                self.registers_of(a, into);
                self.registers_of(b, into);
            }
            _ => {}
        }
    }

    fn name_id(&mut self, name: String) -> u16 {
        let names = &mut self.names;
        *self.name_ids.entry(name).or_insert_with_key(|name| {
            names.push(name.clone());
            (names.len() - 1) as u16
        })
    }

    fn declare(&mut self, name: &str, symbol: Symbol, line: u32) -> Result<(), ParseError> {
        let scope = self.scopes.last_mut().expect("inside a scope");
        match scope.insert(name.to_owned(), symbol) {
            None => Ok(()),
            Some(_) => Err(ParseError { line, text: format!("duplicate definition of '{name}'") }),
        }
    }

    /// What a name stands for, innermost scope first.
    pub(super) fn find(&self, name: &str) -> Option<Symbol> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).copied()
    }

    /// A branch to the label, to be patched when its place is known.
    pub(super) fn branch(&mut self, label: &str) -> super::Decoded {
        let Some(Symbol::Label(label)) = self.find(label) else {
            return Err(format!("unknown label '{label}'"));
        };
        self.branches.push((self.code.len(), label));
        Ok(Op::Branch(0))
    }

    /// A register that nothing names yet.
    ///
    /// Registers start with a pattern that is unlikely to pass for data: reading one before writing it shows.
    pub(super) fn new_register(&mut self, class: Class) -> Reg {
        const POISON: u32 = 0xDEAD_BEEF;
        let r = &mut self.registers;
        let index = match class {
            Class::Pred => {
                r.pred.push(0x5555_5555);
                r.pred.len()
            }
            Class::B64 => {
                r.b64.push([u64::from(POISON) << 32 | u64::from(POISON); WARP]);
                r.b64.len()
            }
            Class::B128 => {
                r.b128.push([u128::from(POISON); WARP]);
                r.b128.len()
            }
            _ => {
                r.b32.push([if class == Class::B32 { POISON } else { POISON & 0xFF }; WARP]);
                r.b32.len()
            }
        };
        Reg { class, index: u16::try_from(index - 1).expect("fewer than 65536 registers of a kind") }
    }

    /// A register that holds the constant in all lanes.
    pub(super) fn constant(&mut self, class: Class, value: u128) -> u16 {
        if let Some(&index) = self.constants.get(&(class, value)) {
            return index;
        }
        let index = self.new_register(class).index;
        let (r, at) = (&mut self.registers, usize::from(index));
        match class {
            Class::Pred => r.pred[at] = if value == 0 { 0 } else { u32::MAX },
            Class::B64 => r.b64[at] = [value as u64; WARP],
            Class::B128 => r.b128[at] = [value; WARP],
            _ => r.b32[at] = [value as u32; WARP],
        }
        self.constants.insert((class, value), index);
        index
    }

    /// The register that holds a special register.
    pub(super) fn special(&mut self, special: Special) -> Reg {
        if let Some(&reg) = self.specials.get(&special) {
            return reg;
        }
        let reg = self.new_register(Class::B32);
        self.specials.insert(special, reg);
        reg
    }
}
