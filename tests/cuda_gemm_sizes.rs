//! Sizes of workspaces of products on a Hopper, up to the largest there are: a number, or that they are too large.

#![cfg(target_os = "linux")] // as the simulator is

use ptx_sim::{Config, Installed};
use qlora_kernels::{Context, Status, ops};

/// Nothing that is counted on the way overflows, the costs by which a product is cut among them.
#[test]
fn the_largest_shapes_have_a_size_or_none() {
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&Config { compute_capability: (9, 0), ..ptx_sim::config() });
    }
    let context = Context::cuda(0).unwrap();
    let sizes = [1, 64, 128, 4096, 1 << 30, 1 << 31, 1 << 40, 1 << 61, usize::MAX];
    for m in sizes {
        for n in sizes {
            for k in sizes {
                for rank in [0, 64, 1 << 30, usize::MAX] {
                    let shape = format!("M = {m}, N = {n}, K = {k}, rank {rank}");
                    match ops::gemm_workspace_size(&context, m, n, k, rank) {
                        // T or U is there in f32.
                        Ok(size) => assert!(size / 4 >= m.saturating_mul(rank), "{shape}: {size}"),
                        Err(error) => {
                            assert_eq!(error.status(), Status::TooLarge, "{shape}");
                            assert!(m.max(n).max(k).max(rank) >= 1 << 30, "{shape}");
                        }
                    }
                }
            }
        }
    }
}
