//! The modifiers of an instruction. Each must be asked for: what nobody asked for is an unknown form.

use crate::parse::{Instruction, Type};

/// Modifiers not yet understood.
pub struct Mods<'a> {
    left: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    pub fn new(i: &'a Instruction) -> Self {
        Self { left: i.modifiers.iter().map(String::as_str).collect() }
    }

    /// Whether the modifier is there; it is understood from now on.
    pub fn take(&mut self, name: &str) -> bool {
        let at = self.left.iter().position(|&m| m == name);
        if let Some(at) = at {
            self.left.remove(at);
        }
        at.is_some()
    }

    /// The first of `names` that is there.
    pub fn one_of<'n>(&mut self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.take(name))
    }

    /// Takes away modifiers that start with `prefix`.
    pub fn ignore_prefix(&mut self, prefix: &str) -> bool {
        let before = self.left.len();
        self.left.retain(|m| !m.starts_with(prefix));
        self.left.len() != before
    }

    /// The next modifier, whatever it is.
    pub fn next_word(&mut self) -> Option<&'a str> {
        if self.left.is_empty() { None } else { Some(self.left.remove(0)) }
    }

    /// The next modifier, which must be a type.
    pub fn ty(&mut self) -> Result<Type, String> {
        let Some(&word) = self.left.first() else { return Err("a type is missing".into()) };
        let ty = Type::parse(word).ok_or_else(|| format!("unknown modifier .{word}"))?;
        self.left.remove(0);
        Ok(ty)
    }

    /// The type, which must be all that is left.
    pub fn only_ty(&mut self) -> Result<Type, String> {
        let ty = self.ty()?;
        self.finish()?;
        Ok(ty)
    }

    /// Fails if a modifier was not understood.
    pub fn finish(&self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some(word) => Err(format!("unknown modifier .{word}")),
        }
    }
}
