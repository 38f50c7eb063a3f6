//! The processor's floating-point modes. A program built with `-ffast-math`, or one that asked its framework to flush
//! denormals, runs with subnormal numbers taken for zero; interval arithmetic rounds up or down. The formats' bits do not allow
//! that, nor do tables that are computed once for the whole process, so work is done under the standard modes and the caller's are
//! put back.

/// Standard modes for as long as it lives: round to nearest, subnormals kept, exceptions masked.
pub struct StandardModes {
    callers: control::Word,
}

/// x86-64: the register MXCSR (Intel SDM, volume 1, section 10.2.3).
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod control {
    use std::arch::asm;

    pub type Word = u32;
    /// The value at power-on.
    pub const STANDARD: Word = 0x1f80;
    /// The sticky exception flags, which are not modes.
    const FLAGS: Word = 0x3f;

    pub fn is_standard(value: Word) -> bool {
        value & !FLAGS == STANDARD
    }

    pub fn get() -> Word {
        let mut value = 0;
        // SAFETY: stores the 4 bytes of the control register.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
        value
    }

    pub fn set(value: Word) {
        // SAFETY: the value is the standard one, or was in the register before.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &value, options(nostack)) };
    }
}

/// ARM: the register FPCR (Arm Architecture Reference Manual, section C5.2.8). Exception flags have a register of their own.
#[cfg(all(target_arch = "aarch64", not(miri)))]
mod control {
    use std::arch::asm;

    pub type Word = u64;
    /// All modes off.
    pub const STANDARD: Word = 0;

    pub fn is_standard(value: Word) -> bool {
        value == STANDARD
    }

    pub fn get() -> Word {
        let value;
        // SAFETY: reads the control register.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    pub fn set(value: Word) {
        // SAFETY: the value is the standard one, or was in the register before.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

/// Elsewhere they are not looked at.
#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod control {
    pub type Word = ();
    pub const STANDARD: Word = ();
    pub fn is_standard((): Word) -> bool {
        true
    }
    pub fn get() -> Word {}
    pub fn set((): Word) {}
}

impl StandardModes {
    pub fn set() -> Self {
        let callers = control::get();
        if !control::is_standard(callers) {
            control::set(control::STANDARD);
        }
        Self { callers }
    }
}

impl Drop for StandardModes {
    fn drop(&mut self) {
        if !control::is_standard(self.callers) {
            control::set(self.callers);
        }
    }
}

#[cfg(all(test, not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use crate::{Context, QuantSpec, QuantizedMatrix, Tensor, TensorMut};
    use std::hint::black_box;

    /// Flush to zero, and denormals are zero.
    const FLUSH: control::Word =
        control::STANDARD | if cfg!(target_arch = "x86_64") { 0x8040 } else { 1 << 24 };

    #[test]
    fn a_program_that_flushes_subnormals_gets_the_same_bits() {
        let x: Vec<f32> = (0..1 << 17).map(|i| (i as f32).sin() * 1e-37).collect();
        let run = || {
            let context = Context::cpu();
            let q = QuantizedMatrix::quantize(
                &context,
                Tensor::new(&x, 1, x.len()).unwrap(),
                &QuantSpec::default(),
            );
            let mut y = vec![0f32; x.len()];
            q.as_ref().unwrap().dequantize(&context, TensorMut::new(&mut y, 1, x.len()).unwrap()).unwrap();
            (q.unwrap(), y)
        };
        let expected = run();
        assert!(expected.1.iter().any(|y| y.is_subnormal()));
        control::set(FLUSH);
        let flushes = black_box(black_box(1e-38f32) * 0.5) == 0.0;
        let flushed = run();
        let after = control::get();
        control::set(control::STANDARD);
        assert!(
            flushes && control::is_standard(after ^ FLUSH ^ control::STANDARD),
            "the caller's modes come back"
        );
        assert!(flushed == expected);
    }
}
