//! Good kernels and their mutants.

use super::{Gpu, Shape};
use ptx_sim::FaultKind;

/// An edit: its name, the text it replaces, the replacement, and what must be found.
pub type Edit = (&'static str, &'static str, &'static str, FaultKind);

/// Runs the good kernel, checks its output, then each mutant.
pub fn table(ptx: &str, shape: Shape, input: &[f32], expected: &[f32], edits: &[Edit]) {
    let gpu = Gpu::new();
    // One host thread: of two right diagnoses the same one comes each time.
    let config = ptx_sim::Config {
        instruction_limit: 1_000_000,
        print_faults: false,
        threads: 1,
        ..ptx_sim::config()
    };
    ptx_sim::configure(&config);
    let run = |text: &str| {
        let input = gpu.upload(input);
        let output = gpu.upload(&vec![0f32; expected.len()]);
        // A counter that starts at zero, then memory that nobody has written.
        let scratch = gpu.alloc(1024);
        gpu.set_zero(scratch, 4);
        let function = gpu.function(text, "k");
        gpu.try_launch(function, shape, &[input, output, scratch])
            .map(|()| gpu.download::<f32>(output, expected.len()))
    };
    match run(ptx) {
        Ok(output) => assert_eq!(output, expected),
        Err(fault) => panic!("the good kernel: {fault}"),
    }
    for (name, from, to, kind) in edits {
        assert_eq!(ptx.matches(from).count(), 1, "{name}: the edit's place");
        match run(&ptx.replace(from, to)) {
            Ok(_) => panic!("{name}: not caught"),
            Err(fault) => {
                assert_eq!(fault.kind, *kind, "{name}: {fault}");
                assert_eq!(fault.kernel, "k");
                assert!(fault.line > 4, "{name}: {fault}");
            }
        }
    }
}

pub fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}
