//! Tables in constant memory.

use crate::address::{Const, Ptr};
use crate::kernel::Kernel;
use crate::target::ANY;

impl Kernel {
    /// A table of 32-bit words in the kernel's constant memory, aligned to 16 bytes. Give f32 values by their bits.
    pub fn constants(&self, name: &str, words: &[u32]) -> Ptr<Const> {
        let name = format!("{}_{name}", self.name());
        self.declare(&name);
        let values: Vec<_> = words.iter().map(|word| format!("{word:#x}")).collect();
        let (len, values) = (words.len(), values.join(", "));
        let declaration = format!(".const .align 16 .b32 {name}[{len}] = {{{values}}};");
        self.state.borrow_mut().variables.push((name.clone(), declaration));
        let base = self.reg();
        self.emit(None, &format!("mov.b64 $, {name}"), ANY, Some(&base), &[]);
        Ptr::new(base)
    }
}
