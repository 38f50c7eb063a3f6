//! The global traffic of the streaming kernels, counted by the simulator in sectors of 32 bytes, against its floor: each
//! byte of input and output once. Run with `--nocapture` to see the table.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::*;
use ptx_sim::{Installed, Stats, counters, reset_counters};
use qlora_kernels::format::Map256;
use qlora_kernels::{Codebook, Constants, DType, QuantSpec, ops};

/// 128 tiles of 16-bit elements: whole tiles, as large matrices have them almost only.
const ROWS: usize = 1024;
const COLS: usize = 1024;

/// What was counted since the last reset, once the stream is done; `None` on a real device, which does not count.
fn counted(gpu: &Gpu) -> Option<Stats> {
    gpu.stream.synchronize().unwrap();
    matches!(ptx_sim::install(), Installed::Simulator).then(|| counters().total())
}

/// A small device, so that blocks stride over several tiles as they do on a large one with a large matrix.
fn small_device() {
    static SMALL: std::sync::Once = std::sync::Once::new();
    if let Installed::Simulator = ptx_sim::install() {
        SMALL.call_once(|| ptx_sim::configure(&ptx_sim::Config { sm_count: 2, ..ptx_sim::config() }));
    }
}

fn report(name: &str, stats: &Stats, floor: usize, wide: (u64, u64), conflicts: u64) {
    let moved = 32 * (stats.global_loads.sectors + stats.global_stores.sectors);
    let ratio = moved as f64 / floor as f64;
    println!(
        "{name:<36} {moved:>9} bytes, floor {floor:>9}, ratio {ratio:.4}, {} conflicts, {:.1} warp instructions a vector",
        stats.bank_conflicts,
        stats.warp_instructions as f64 / ((ROWS * COLS) as f64 / 256.0)
    );
    assert!(ratio < 1.05, "{name}: {ratio}");
    assert!(stats.bank_conflicts <= conflicts, "{name}: {} bank conflicts", stats.bank_conflicts);
    // The wide side moves 16 bytes a lane and access, all of it.
    assert_eq!(wide.0, wide.1, "{name}: accesses of 16 bytes");
}

#[test]
fn each_byte_is_moved_once() {
    small_device();
    let gpu = Gpu::new();
    let len = ROWS * COLS;
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        for (block_size, constants) in [
            (64, Constants::F32),
            (64, Constants::Fp8),
            (64, Constants::Dynamic),
            (32, Constants::F32),
            (128, Constants::F32),
            (4096, Constants::F32),
        ] {
            let spec = QuantSpec::new(Codebook::Nf4, block_size).with_constants(constants);
            let name = format!("{dtype:?}, blocks of {block_size}, {:?}", spec.constants);
            let x = Matrix::new(dtype, &numbers(len, 1, &[]), ROWS, COLS, 0);
            let wide = len * dtype.size();
            // Sixteen thresholds or values in sixteen banks never conflict. The 256 entries of a map of constants do, with
            // one lane a block: less than once a vector.
            let conflicts = if spec.constants == Constants::Dynamic { (len / 256) as u64 } else { 0 };
            let q = DeviceQuantized::new(&gpu, &spec, ROWS, COLS, 0);
            let (input, output) = (gpu.matrix(&x, 0), gpu.matrix(&x, 0));
            let size = ops::quantize_workspace_size(&gpu.context, &spec, ROWS, COLS).unwrap();
            let workspace = gpu.workspace(size);
            gpu.stream.synchronize().unwrap();

            reset_counters();
            let (x_view, to) = (input.tensor(&gpu, &x), q.view_mut(&gpu));
            ops::quantize(&gpu.context, x_view, to, workspace.buffer_mut::<u8>(&gpu)).unwrap();
            if let (Some(stats), Constants::F32) = (counted(&gpu), &spec.constants) {
                let floor = wide + len / 2 + 4 * len / block_size as usize;
                report(
                    &format!("quantize {name}"),
                    &stats,
                    floor,
                    (stats.global_loads.of_width(16), wide as u64 / 16),
                    conflicts,
                );
            }
            reset_counters();
            ops::dequantize(&gpu.context, q.view(&gpu), output.tensor_mut(&gpu, &x)).unwrap();
            if let Some(stats) = counted(&gpu) {
                let floor = wide + spec.sizes(ROWS as u64, COLS as u64).unwrap().total_bytes as usize;
                report(
                    &format!("dequantize {name}"),
                    &stats,
                    floor,
                    (stats.global_stores.of_width(16), wide as u64 / 16),
                    conflicts,
                );
            }
        }
    }
}

/// 8-bit blocks: one byte a code, 256-entry tables, in which lanes conflict by chance.
#[test]
fn each_byte_of_8_bits_is_moved_once() {
    small_device();
    let (gpu, len, map) = (Gpu::new(), ROWS * COLS, Map256::dynamic_signed());
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let x = Matrix::new(dtype, &numbers(len, 1, &[]), ROWS, COLS, 0);
        let (input, output) = (gpu.matrix(&x, 0), gpu.matrix(&x, 0));
        let (codes, absmax) = (gpu.allocate(len, 0), gpu.allocate(4 * len / 256, 0));
        gpu.stream.synchronize().unwrap();
        let (wide, floor) = (len * dtype.size(), len * dtype.size() + len + 4 * len / 256);
        reset_counters();
        let (to, scales) = (codes.buffer_mut(&gpu), absmax.buffer_mut(&gpu));
        ops::quantize_8bit(&gpu.context, input.tensor(&gpu, &x), &map, 256, to, scales).unwrap();
        if let Some(stats) = counted(&gpu) {
            report(
                &format!("quantize to 8 bits {dtype:?}"),
                &stats,
                floor,
                (stats.global_loads.of_width(16), wide as u64 / 16),
                u64::MAX,
            );
        }
        reset_counters();
        let (from, scales) = (codes.buffer(&gpu), absmax.buffer(&gpu));
        ops::dequantize_8bit(&gpu.context, from, scales, &map, 256, output.tensor_mut(&gpu, &x)).unwrap();
        if let Some(stats) = counted(&gpu) {
            report(
                &format!("dequantize 8 bits {dtype:?}"),
                &stats,
                floor,
                (stats.global_stores.of_width(16), wide as u64 / 16),
                u64::MAX,
            );
        }
    }
}
