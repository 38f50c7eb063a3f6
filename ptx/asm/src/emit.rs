//! Where an instruction's result goes, and under which condition: new registers, existing ones, a guard.

use crate::class::{B32, B64, Class, F32};
use crate::kernel::Kernel;
use crate::operand::Operand;
use crate::register::{Destination, Guard, Reg};
use crate::target::ANY;

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
