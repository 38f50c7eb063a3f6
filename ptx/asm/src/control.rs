//! Structured control flow: every closure becomes one block with one entry.

use crate::class::B32;
use crate::kernel::Kernel;
use crate::operand::{Operand, Print};
use crate::register::{Guard, Reg};
use crate::target::ANY;

impl Kernel {
    /// Executes `then` where `p` holds.
    pub fn if_then(&self, p: impl Into<Guard>, then: impl FnOnce()) {
        let [end] = self.labels(["endif"]);
        self.branch(Some(!p.into()), &end);
        self.indented(then);
        self.place(&end);
    }

    /// Executes `then` where `p` holds, `otherwise` elsewhere.
    pub fn if_else(&self, p: impl Into<Guard>, then: impl FnOnce(), otherwise: impl FnOnce()) {
        let [other, end] = self.labels(["else", "endif"]);
        self.branch(Some(!p.into()), &other);
        self.indented(then);
        self.branch(None, &end);
        self.place(&other);
        self.indented(otherwise);
        self.place(&end);
    }

    /// `while condition { body }`: `condition` emits its own computation and returns the predicate.
    pub fn while_<G: Into<Guard>>(&self, condition: impl FnOnce() -> G, body: impl FnOnce()) {
        let [head, end] = self.labels(["while", "endwhile"]);
        self.place(&head);
        let p = self.indented(condition);
        self.branch(Some(!p.into()), &end);
        self.indented(body);
        self.branch(None, &head);
        self.place(&end);
    }

    /// `do { body } while (condition)`: `body` returns the predicate to go on by.
    pub fn do_while<G: Into<Guard>>(&self, body: impl FnOnce() -> G) {
        let [head] = self.labels(["do"]);
        self.place(&head);
        let p = self.indented(body);
        self.branch(Some(p.into()), &head);
    }

    /// `loop { body }`, left by [`Loop::break_if`].
    pub fn loop_(&self, body: impl FnOnce(&Loop)) {
        let [head, end] = self.labels(["loop", "endloop"]);
        let l = Loop { kernel: self, head, end };
        self.place(&l.head);
        self.indented(|| body(&l));
        self.branch(None, &l.head);
        self.place(&l.end);
    }

    /// `for i in (start..end).step_by(step)` over unsigned 32-bit numbers; `end + step` must not overflow. `i` is a
    /// register that the loop writes: copy what must outlive the step.
    pub fn for_range(
        &self,
        start: impl Into<Operand<B32>>,
        end: impl Into<Operand<B32>>,
        step: impl Into<Operand<B32>>,
        body: impl FnOnce(Reg<B32>),
    ) {
        let (end, step) = (end.into(), step.into());
        let [head, done] = self.labels(["for", "endfor"]);
        let i = self.mov(start);
        self.branch(Some(self.setp_ge_u32(i, end).into()), &done);
        self.place(&head);
        self.indented(|| {
            body(i);
            self.to(i).add_u32(i, step);
        });
        self.branch(Some(self.setp_lt_u32(i, end).into()), &head);
        self.place(&done);
    }

    /// Ends the thread, or the threads where a guard holds: `k.when(p).exit()`.
    pub fn exit(&self) {
        self.emit(None, "exit", ANY, None, &[]);
    }

    /// Before a loop: keep it a loop.
    pub fn nounroll(&self) {
        self.line(".pragma \"nounroll\";");
    }

    fn branch(&self, guard: Option<Guard>, label: &str) {
        self.emit(guard, "bra", ANY, None, &[&Label(label)]);
    }
}

impl crate::When<'_> {
    /// Ends the threads where the guard holds.
    pub fn exit(self) {
        self.kernel.emit(Some(self.guard), "exit", ANY, None, &[]);
    }
}

/// The loop that one is in.
pub struct Loop<'k> {
    kernel: &'k Kernel,
    head: String,
    end: String,
}

impl Loop<'_> {
    /// Leaves the loop where `p` holds.
    pub fn break_if(&self, p: impl Into<Guard>) {
        self.kernel.branch(Some(p.into()), &self.end);
    }

    /// Goes on with the next step where `p` holds.
    pub fn continue_if(&self, p: impl Into<Guard>) {
        self.kernel.branch(Some(p.into()), &self.head);
    }
}

struct Label<'a>(&'a str);

impl Print for Label<'_> {
    fn print(&self, out: &mut String) {
        out.push_str(self.0);
    }
}
