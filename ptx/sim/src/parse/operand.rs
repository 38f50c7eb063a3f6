//! Operands (PTX ISA §6).

use super::Result;
use super::ast::Operand;
use super::lexer::Kind;
use super::module::Parser;

impl Parser<'_> {
    /// One operand, with its `|second` part.
    pub(super) fn operand(&mut self) -> Result<Operand> {
        let first = self.simple_operand()?;
        if self.eat(b'|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.simple_operand()?)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self) -> Result<Operand> {
        match self.peek() {
            Kind::Punct(b'{') => self.vector().map(Operand::Vector),
            Kind::Punct(b'[') => self.address(),
            Kind::Punct(b'!') => {
                self.advance();
                Ok(Operand::Not(self.name()?))
            }
            Kind::Punct(b'-') | Kind::Int(_) | Kind::F32(_) | Kind::F64(_) => self.constant(),
            Kind::Word(_) => {
                let name = self.name()?;
                match self.offset()? {
                    Some(offset) => Ok(Operand::Offset(name, offset)),
                    None => Ok(Operand::Name(name)),
                }
            }
            _ => self.unexpected("an operand"),
        }
    }

    /// A name, with the `.x` of special registers.
    pub(super) fn name(&mut self) -> Result<String> {
        let Kind::Word(word) = self.peek() else { return self.unexpected("a name") };
        self.advance();
        let mut name = word.to_owned();
        if word.starts_with('%')
            && let Kind::Dot(part @ ("x" | "y" | "z" | "w")) = self.peek()
        {
            self.advance();
            name.push('.');
            name.push_str(part);
        }
        Ok(name)
    }

    fn constant(&mut self) -> Result<Operand> {
        let negative = self.eat(b'-');
        let kind = self.peek();
        self.advance();
        Ok(match (kind, negative) {
            (Kind::Int(value), false) => Operand::Int(value as i64),
            (Kind::Int(value), true) => Operand::Int((value as i64).wrapping_neg()),
            (Kind::F32(bits), false) => Operand::F32(bits),
            (Kind::F32(bits), true) => Operand::F32(bits ^ 1 << 31),
            (Kind::F64(bits), false) => Operand::F64(bits),
            (Kind::F64(bits), true) => Operand::F64(bits ^ 1 << 63),
            _ => return self.unexpected("a constant"),
        })
    }

    fn vector(&mut self) -> Result<Vec<Operand>> {
        self.expect(b'{')?;
        let mut parts = Vec::new();
        loop {
            parts.push(self.simple_operand()?);
            if self.eat(b'}') {
                return Ok(parts);
            }
            self.expect(b',')?;
        }
    }

    /// `+4` or `+-4` after a base. (`-4` alone is no PTX.)
    fn offset(&mut self) -> Result<Option<i64>> {
        if !self.eat(b'+') {
            return Ok(None);
        }
        let minus = self.eat(b'-');
        let Kind::Int(value) = self.peek() else { return self.unexpected("an integer offset") };
        self.advance();
        let value = value as i64;
        Ok(Some(if minus { value.wrapping_neg() } else { value }))
    }

    fn address(&mut self) -> Result<Operand> {
        self.expect(b'[')?;
        let base = match self.peek() {
            Kind::Word(_) => Operand::Name(self.name()?),
            _ => self.constant()?,
        };
        let offset = self.offset()?.unwrap_or(0);
        if self.eat(b',') {
            let coordinates = self.vector()?;
            self.expect(b']')?;
            return Ok(Operand::TensorAddress(Box::new(base), coordinates));
        }
        self.expect(b']')?;
        Ok(Operand::Address(Box::new(base), offset))
    }
}
