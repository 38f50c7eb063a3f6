//! The list of instruction forms, and what follows from a line of it.

use crate::kernel::Kernel;
use crate::operand::Operands;
use crate::target::Needs;

/// One form of one instruction: a line in [`instructions`](crate::instructions).
pub struct Form {
    /// The builder's method, with its type argument and hints where it has them.
    pub name: String,
    /// The opcode with its qualifiers; `$` stands for an operand where they do not simply follow.
    pub opcode: String,
    /// The least target and `.version`.
    pub needs: Needs,
    /// Emits the form once: for assemblers and parsers, not for running.
    pub sample: Sample,
}

/// Emits a form on the operands asked for.
pub type Sample = Box<dyn Fn(&Kernel, Operands)>;

/// Every form, family by family.
pub fn forms() -> Vec<Form> {
    crate::instructions::FAMILIES.iter().flat_map(|family| family()).collect()
}

/// Turns a family's list into builder methods and into the family's part of [`forms`].
///
/// A line reads `method "opcode" (operand: Kind, …) -> Kind, needs;`. With a destination it becomes two methods:
/// `Kernel::method`, which returns new registers, and `To::method`, which writes those that `k.to(…)` names. Without
/// one it is a method of `Kernel` and of `When`, the same under a guard.
macro_rules! family {
    ($($(#[$doc:meta])* $name:ident $opcode:literal ($($arg:ident: $kind:ty),*) $(-> $to:ty)? $(, $needs:expr)?;)*) => {
        $($crate::forms::form! {
            [$(#[$doc])*] $name $opcode ($($arg: $kind),*) [$($to)?] [$($needs)?]
        })*

        #[allow(unused_variables)] // forms without operands do not ask what they are to be
        pub(crate) fn forms() -> Vec<$crate::forms::Form> {
            vec![$($crate::forms::Form {
                name: stringify!($name).into(),
                opcode: $opcode.into(),
                needs: $crate::forms::needs!($($needs)?),
                sample: Box::new(|k, operands| {
                    $(let $arg = <$kind as $crate::operand::Inputs>::sample(k, operands);)*
                    k.$name($($arg),*);
                }),
            }),*]
        }
    };
}

macro_rules! form {
    ([$(#[$doc:meta])*] $name:ident $opcode:literal ($($arg:ident: $kind:ty),*) [] [$($needs:expr)?]) => {
        impl $crate::Kernel {
            #[doc = concat!("`", $opcode, "`")]
            ///
            $(#[$doc])*
            pub fn $name(&self $(, $arg: impl Into<$crate::operand::In<$kind>>)*) {
                let needs = $crate::forms::needs!($($needs)?);
                self.emit(None, $opcode, needs, None, &[$(&$arg.into()),*]);
            }
        }

        impl $crate::When<'_> {
            #[doc = concat!("`", $opcode, "`, where the guard holds.")]
            ///
            $(#[$doc])*
            pub fn $name(self $(, $arg: impl Into<$crate::operand::In<$kind>>)*) {
                let needs = $crate::forms::needs!($($needs)?);
                self.kernel.emit(Some(self.guard), $opcode, needs, None, &[$(&$arg.into()),*]);
            }
        }
    };
    ([$(#[$doc:meta])*] $name:ident $opcode:literal ($($arg:ident: $kind:ty),*) [$to:ty] [$($needs:expr)?]) => {
        impl $crate::Kernel {
            #[doc = concat!("`", $opcode, "`")]
            ///
            $(#[$doc])*
            pub fn $name(&self $(, $arg: impl Into<$crate::operand::In<$kind>>)*) -> $crate::register::Out<$to> {
                let to = $crate::register::Destination::fresh(self);
                self.to(to).$name($($arg),*);
                to
            }
        }

        impl $crate::To<'_, $crate::register::Out<$to>> {
            #[doc = concat!("`", $opcode, "`")]
            ///
            $(#[$doc])*
            pub fn $name(self $(, $arg: impl Into<$crate::operand::In<$kind>>)*) {
                let needs = $crate::forms::needs!($($needs)?);
                self.kernel.emit(self.guard, $opcode, needs, Some(&self.to), &[$(&$arg.into()),*]);
            }
        }
    };
}

macro_rules! needs {
    () => {
        $crate::target::ANY
    };
    ($needs:expr) => {
        $needs
    };
}

pub(crate) use {family, form, needs};
