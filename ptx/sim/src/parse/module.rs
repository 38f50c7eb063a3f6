//! Directives, declarations and statements (PTX ISA §4, §5.4, §11).

use super::ast::{Entry, Instruction, Limits, Module, Space, Statement, Variable};
use super::lexer::{Kind, Token, lex};
use super::types::Type;
use super::{ParseError, Result};

/// Parses a module.
pub fn parse(text: &str) -> Result<Module> {
    Parser { tokens: lex(text)?, at: 0 }.module()
}

pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Kind<'a> {
        self.tokens[self.at].kind
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    pub(super) fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    pub(super) fn eat(&mut self, punct: u8) -> bool {
        let found = self.peek() == Kind::Punct(punct);
        if found {
            self.advance();
        }
        found
    }

    fn eat_dot(&mut self, name: &str) -> bool {
        let found = self.peek() == Kind::Dot(name);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct) { Ok(()) } else { self.unexpected(&format!("'{}'", punct as char)) }
    }

    fn error<T>(&self, text: impl Into<String>) -> Result<T> {
        Err(ParseError { line: self.line(), text: text.into() })
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        let found = match self.peek() {
            Kind::Word(word) => format!("'{word}'"),
            Kind::Dot(word) => format!("'.{word}'"),
            Kind::Punct(c) => format!("'{}'", c as char),
            Kind::End => "the end of the text".to_owned(),
            other => format!("{other:?}"),
        };
        self.error(format!("expected {wanted}, found {found}"))
    }

    fn int(&mut self) -> Result<u64> {
        let Kind::Int(value) = self.peek() else { return self.unexpected("an integer") };
        self.advance();
        Ok(value)
    }

    fn module(mut self) -> Result<Module> {
        let version_line = self.line();
        if !self.eat_dot("version") {
            return self.error("Missing .version directive at start of file");
        }
        let Kind::F64(bits) = self.peek() else { return self.unexpected("major.minor") };
        self.advance();
        let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
        let mut module = Module {
            version: (tenths / 10, tenths % 10),
            version_line,
            target: String::new(),
            variables: Vec::new(),
            entries: Vec::new(),
        };
        if !self.eat_dot("target") {
            return self.unexpected(".target");
        }
        module.target = self.name()?;
        if self.eat(b',') {
            return self.error("target options are not supported");
        }
        if self.eat_dot("address_size") && self.int()? != 64 {
            return self.error("only .address_size 64 is supported");
        }
        while self.peek() != Kind::End {
            let mut external = false;
            while let Kind::Dot(linkage @ ("visible" | "extern" | "weak")) = self.peek() {
                external |= linkage == "extern";
                self.advance();
            }
            match self.peek() {
                Kind::Dot("entry") => {
                    self.advance();
                    module.entries.push(self.entry()?);
                }
                Kind::Dot("func") => return self.error("functions (.func) are not supported"),
                Kind::Dot("file") => self.skip_line(),
                Kind::Dot("pragma") => self.skip_statement()?,
                _ => match self.variables(external)? {
                    Some(variables) => module.variables.extend(variables),
                    None => return self.unexpected("a kernel or a variable"),
                },
            }
        }
        Ok(module)
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.line() == line && self.peek() != Kind::End {
            self.advance();
        }
    }

    fn skip_statement(&mut self) -> Result<()> {
        while !self.eat(b';') {
            if self.peek() == Kind::End {
                return self.unexpected("';'");
            }
            self.advance();
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<Entry> {
        let line = self.line();
        let name = self.name()?;
        let mut params = Vec::new();
        if self.eat(b'(') && !self.eat(b')') {
            loop {
                if !self.eat_dot("param") {
                    return self.unexpected(".param");
                }
                params.push(self.variable(Space::Param, false)?);
                if self.eat(b')') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        let mut limits = Limits::default();
        while let Kind::Dot(directive) = self.peek() {
            self.advance();
            match directive {
                "maxntid" => limits.maxntid = Some(self.extents()?),
                "reqntid" => limits.reqntid = Some(self.extents()?),
                "reqnctapercluster" => limits.reqnctapercluster = Some(self.extents()?),
                "maxnreg" => limits.maxnreg = Some(self.int()? as u32),
                "minnctapersm" | "maxnctapersm" | "maxclusterrank" => drop(self.int()?),
                "explicitcluster" | "noreturn" => {}
                "pragma" => self.skip_statement()?,
                _ => return self.error(format!("unknown directive .{directive}")),
            }
        }
        let body = self.scope()?;
        Ok(Entry { name, params, limits, body, line })
    }

    fn extents(&mut self) -> Result<[u32; 3]> {
        let mut extents = [1; 3];
        extents[0] = self.int()? as u32;
        for extent in &mut extents[1..] {
            if !self.eat(b',') {
                break;
            }
            *extent = self.int()? as u32;
        }
        Ok(extents)
    }

    /// Declarations up to the semicolon, if the next token names a state space.
    fn variables(&mut self, external: bool) -> Result<Option<Vec<Variable>>> {
        let space = match self.peek() {
            Kind::Dot("global") => Space::Global,
            Kind::Dot("shared" | "shared::cta") => Space::Shared,
            Kind::Dot("const") => Space::Const,
            Kind::Dot("local") => Space::Local,
            _ => return Ok(None),
        };
        self.advance();
        let (ty, element) = self.element(space, external)?;
        let mut variables = vec![self.declarator(ty, &element)?];
        while self.eat(b',') {
            variables.push(self.declarator(ty, &element)?);
        }
        self.expect(b';')?;
        Ok(Some(variables))
    }

    fn variable(&mut self, space: Space, external: bool) -> Result<Variable> {
        let (ty, element) = self.element(space, external)?;
        self.declarator(ty, &element)
    }

    /// Alignment and type: a nameless variable of one element.
    fn element(&mut self, space: Space, external: bool) -> Result<(Type, Variable)> {
        let (mut align, mut vector) = (1, 1);
        let line = self.line();
        let ty = loop {
            let Kind::Dot(word) = self.peek() else { return self.unexpected("a type") };
            self.advance();
            match word {
                "align" => {
                    align = self.int()? as usize;
                    if !align.is_power_of_two() {
                        return self.error("alignment must be a power of two");
                    }
                }
                "v2" => vector = 2,
                "v4" => vector = 4,
                // `.ptr` attributes of parameters promise things to the optimizer only.
                "ptr" | "global" | "shared" | "const" | "local" | "managed" => {}
                _ => match Type::parse(word) {
                    Some(ty) => break ty,
                    None => return self.error(format!("unknown type .{word}")),
                },
            }
        };
        // `.param .u64 .ptr .global .align 16 name`: the alignment is the pointee's.
        while let Kind::Dot("ptr" | "global" | "shared" | "const" | "local" | "align") = self.peek() {
            let pointee_align = self.peek() == Kind::Dot("align");
            self.advance();
            if pointee_align {
                self.int()?;
            }
        }
        let size = ty.size() * vector;
        // An element is aligned to its size; .align may only raise that.
        let (name, init) = (String::new(), Vec::new());
        Ok((ty, Variable { space, name, align: align.max(size), size, init, external, line }))
    }

    /// The name, array bounds and initial values.
    fn declarator(&mut self, ty: Type, like: &Variable) -> Result<Variable> {
        let line = self.line();
        let name = self.name()?;
        let mut size = like.size;
        while self.eat(b'[') {
            if self.eat(b']') {
                if !like.external {
                    return self.error("an array without a size must be .extern");
                }
                size = 0;
                continue;
            }
            size *= self.int()? as usize;
            self.expect(b']')?;
        }
        let variable = Variable { name, size, line, ..like.clone() };
        Ok(Variable { init: self.initializer(ty, &variable)?, ..variable })
    }

    fn initializer(&mut self, ty: Type, variable: &Variable) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if !self.eat(b'=') {
            return Ok(bytes);
        }
        if !matches!(variable.space, Space::Global | Space::Const) {
            return self.error("only .global and .const variables may be initialized");
        }
        let mut depth = 0;
        loop {
            if self.eat(b'{') {
                depth += 1;
            } else if self.eat(b'}') {
                depth -= 1;
            } else if !self.eat(b',') {
                let negative = self.eat(b'-');
                let bits = match self.peek() {
                    Kind::Int(value) if negative => (value as i64).wrapping_neg() as u64,
                    Kind::Int(value) => value,
                    Kind::F32(bits) => u64::from(bits ^ u32::from(negative) << 31),
                    Kind::F64(bits) => ty.float_bits(f64::from_bits(bits ^ u64::from(negative) << 63)),
                    _ => return self.unexpected("a constant"),
                };
                self.advance();
                bytes.extend_from_slice(&bits.to_le_bytes()[..ty.size().min(8)]);
            }
            if depth == 0 {
                break;
            }
        }
        if bytes.len() > variable.size {
            return self.error("more initial values than the variable has room for");
        }
        Ok(bytes)
    }

    fn scope(&mut self) -> Result<Vec<Statement>> {
        self.expect(b'{')?;
        let mut statements = Vec::new();
        while !self.eat(b'}') {
            self.statement(&mut statements)?;
        }
        Ok(statements)
    }

    fn statement(&mut self, into: &mut Vec<Statement>) -> Result<()> {
        let line = self.line();
        match self.peek() {
            Kind::Punct(b'{') => into.push(Statement::Scope(self.scope()?)),
            Kind::Punct(b';') => self.advance(),
            Kind::Dot("reg") => {
                self.advance();
                into.push(self.registers(line)?);
            }
            Kind::Dot("pragma") => self.skip_statement()?,
            Kind::Dot("loc") => self.skip_line(),
            Kind::Dot(_) => {
                let Some(variables) = self.variables(false)? else { return self.unexpected("a statement") };
                into.extend(variables.into_iter().map(Statement::Variable));
            }
            Kind::Word(word) if self.tokens[self.at + 1].kind == Kind::Punct(b':') => {
                self.advance();
                self.advance();
                into.push(Statement::Label(word.to_owned(), line));
            }
            _ => into.push(Statement::Instruction(self.instruction()?)),
        }
        Ok(())
    }

    fn registers(&mut self, line: u32) -> Result<Statement> {
        let Kind::Dot(word) = self.peek() else { return self.unexpected("a register type") };
        let Some(ty) = Type::parse(word) else { return self.error(format!("unknown type .{word}")) };
        self.advance();
        let mut names = Vec::new();
        loop {
            let name = self.name()?;
            let mut count = None;
            if self.eat(b'<') {
                count = Some(self.int()? as u32);
                self.expect(b'>')?;
            }
            names.push((name, count));
            if self.eat(b';') {
                return Ok(Statement::Registers(ty, names, line));
            }
            self.expect(b',')?;
        }
    }

    fn instruction(&mut self) -> Result<Instruction> {
        let line = self.line();
        let mut guard = None;
        if self.eat(b'@') {
            let negated = self.eat(b'!');
            guard = Some((self.name()?, negated));
        }
        let Kind::Word(opcode) = self.peek() else { return self.unexpected("an instruction") };
        self.advance();
        let mut modifiers = Vec::new();
        while let Kind::Dot(modifier) = self.peek() {
            self.advance();
            modifiers.push(modifier.to_owned());
        }
        let mut operands = Vec::new();
        while !self.eat(b';') {
            if !operands.is_empty() {
                self.expect(b',')?;
            }
            operands.push(self.operand()?);
        }
        Ok(Instruction { guard, opcode: opcode.to_owned(), modifiers, operands, line })
    }
}
