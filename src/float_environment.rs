//! The processor's floating-point modes. A program built with `-ffast-math`, or one that asked its framework to flush
//! denormals, runs with subnormal numbers taken for zero; interval arithmetic rounds up or down. The formats' bits do not allow
//! that, nor do tables that are computed once for the whole process, so work is done under the standard modes and the caller's are
//! put back.

/// Standard modes for as long as it lives: round to nearest, subnormals kept, exceptions masked.
pub struct StandardModes {
    #[cfg(target_arch = "x86_64")]
    callers: u32,
}

#[cfg(target_arch = "x86_64")]
mod mxcsr {
    use std::arch::asm;

    /// The value at power-on (Intel SDM, volume 1, section 10.2.3).
    pub const STANDARD: u32 = 0x1f80;
    /// The sticky exception flags, which are not modes.
    pub const FLAGS: u32 = 0x3f;

    pub fn get() -> u32 {
        let mut value = 0u32;
        // SAFETY: stores the 4 bytes of the control register.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
        value
    }

    pub fn set(value: u32) {
        // SAFETY: the value is the standard one, or was in the register before.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &value, options(nostack, preserves_flags)) };
    }
}

impl StandardModes {
    #[cfg(target_arch = "x86_64")]
    pub fn set() -> Self {
        let callers = mxcsr::get();
        if callers & !mxcsr::FLAGS != mxcsr::STANDARD {
            mxcsr::set(mxcsr::STANDARD);
        }
        Self { callers }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn set() -> Self {
        Self {}
    }
}

impl Drop for StandardModes {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.callers & !mxcsr::FLAGS != mxcsr::STANDARD {
            mxcsr::set(self.callers);
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::{Context, QuantSpec, QuantizedMatrix, Tensor, TensorMut};
    use std::hint::black_box;

    const FLUSH: u32 = mxcsr::STANDARD | 0x8040; // flush to zero, denormals are zero

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
        mxcsr::set(FLUSH);
        let flushes = black_box(black_box(1e-38f32) * 0.5) == 0.0;
        let flushed = run();
        let after = mxcsr::get() & !mxcsr::FLAGS;
        mxcsr::set(mxcsr::STANDARD);
        assert!(flushes && after == FLUSH, "the caller's modes come back");
        assert!(flushed == expected);
    }
}
