//! A module: the text that the driver compiles.

use crate::error::{Error, Problem};
use crate::kernel::Kernel;
use crate::target::{Target, Version};
use std::fmt::Write;

/// PTX in the making.
pub struct Module {
    target: Target,
    version: Version,
    names: Vec<String>,
    kernels: String,
    /// Module-scope variables.
    variables: String,
    errors: Vec<Error>,
}

impl Module {
    /// An empty module.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            version: target.floor(),
            names: vec![],
            kernels: String::new(),
            variables: String::new(),
            errors: vec![],
        }
    }

    /// What the module is written for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The least `.version` that has everything used so far.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Adds a kernel, `.visible .entry name`, whose parameters and body `write` emits. Returns what `write` returns:
    /// for example the number of bytes of dynamic shared memory that a launch has to give.
    pub fn kernel<R>(&mut self, name: &str, write: impl FnOnce(&Kernel) -> R) -> R {
        let k = Kernel::new(self.target, name);
        let result = write(&k);
        let finished = k.finish();
        self.version = self.version.max(finished.version);
        write!(self.kernels, "\n{}", finished.text).unwrap();
        self.errors.extend(finished.errors);
        self.declare(name, name);
        for (variable, declaration) in finished.variables {
            writeln!(self.variables, "{declaration}").unwrap();
            self.declare(name, &variable);
        }
        result
    }

    /// Takes a name at module scope.
    fn declare(&mut self, kernel: &str, name: &str) {
        if self.names.iter().any(|n| n == name) {
            let problem = Problem::DuplicateName { name: name.into() };
            self.errors.push(Error { kernel: kernel.into(), section: String::new(), problem });
        }
        self.names.push(name.into());
    }

    /// The module's text, or the first thing wrong with it.
    pub fn to_ptx(&self) -> Result<String, Error> {
        match self.errors.first() {
            Some(error) => Err(error.clone()),
            None => Ok(format!(
                ".version {}\n.target {}\n.address_size 64\n{}{}",
                self.version, self.target, self.variables, self.kernels
            )),
        }
    }

    /// Everything that is wrong with the module.
    pub fn errors(&self) -> &[Error] {
        &self.errors
    }
}
