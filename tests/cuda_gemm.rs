//! Products and adapter gradients on a CUDA device, against f64: the bound is that of the CPU's, because the kernel sums
//! in f32, too.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::cases;
use common::device::*;
use common::products::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn small_shapes(case in any_case(70)) {
        case.check(&Gpu::new())?;
    }
}

proptest! {
    #![proptest_config(cases(6))]

    /// Several tiles in every direction.
    #[test]
    fn larger_shapes(case in any_case(300)) {
        case.check(&Gpu::new())?;
    }
}
