//! The printed text of small kernels and of every form, against checked-in files. `UPDATE_SNAPSHOTS=1` writes them.

use ptx_asm::*;
use std::fmt::Write;

fn check(name: &str, text: &str) {
    let path = format!("{}/tests/snapshots/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (line, (ours, theirs)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(ours, theirs, "{name}, line {}", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{name}");
}

fn kernel(target: Target, write: impl FnOnce(&Kernel)) -> String {
    let mut module = Module::new(target);
    module.kernel("k", write);
    module.to_ptx().unwrap()
}

/// Declarations, loops, guards, shared memory, and constants in every place.
#[test]
fn block_sums() {
    let text = kernel(Target::Sm80, |k| {
        k.maxntid([256, 1, 1]);
        k.minnctapersm(2);
        let (x, sums) = (k.param_ptr("x"), k.param_ptr("sums"));
        let (n, scale) = (k.param_u32("n"), k.param_f32("scale"));
        let partial = k.shared::<F32>("partial", 8);

        k.section("sum of this thread's elements");
        let tid = k.tid_x();
        let sum = k.var_f32(0.0);
        let first = k.mad_lo_u32(k.ctaid_x(), 1024, k.shl_b32(tid, 2));
        k.for_range(first, n, 4096, |i| {
            let how = Load::NC.l1(Evict::NoAllocate).l2(Prefetch::Bytes128);
            for v in k.ld_global_with::<[F32; 4]>(how, k.element(x, i, 4)) {
                k.to(sum).fma_rn_f32(v, scale, sum);
            }
        });

        k.section("sum of the block");
        for mask in [16, 8, 4, 2, 1] {
            k.to(sum).add_rn_f32(sum, k.shfl_bfly_f32(sum, mask, 31, u32::MAX));
        }
        let leader = k.setp_eq_u32(k.and_b32(tid, 31), 0);
        k.when(leader).st_shared::<F32>(partial.element(k, k.shr_u32(tid, 5)), sum);
        k.bar_sync(0);
        k.if_then(k.setp_eq_u32(tid, 0), || {
            k.to(sum).mov(0.0);
            for warp in 0..8 {
                k.to(sum).add_rn_f32(sum, k.ld_shared::<F32>(partial.at(warp)));
            }
            k.st_global::<F32>(k.element(sums, k.ctaid_x(), 4), sum);
        });
    });
    check("block_sums.ptx", &text);
}

/// Every structure of control flow, nested.
#[test]
fn control_flow() {
    let text = kernel(Target::Sm75, |k| {
        let n = k.param_u32("n");
        let i = k.var_u32(0);
        k.if_else(
            k.setp_gt_s32(n, -1),
            || k.while_(|| k.setp_lt_u32(i, n), || k.to(i).add_u32(i, 1)),
            || {
                k.nounroll();
                k.do_while(|| {
                    k.to(i).sub_u32(i, 1);
                    !k.setp_eq_u32(i, 0)
                });
            },
        );
        k.loop_(|l| {
            k.to(i).shr_u32(i, 1);
            l.break_if(k.setp_eq_u32(i, 0));
            let odd = k.setp_ne_u32(k.and_b32(i, 1), 0);
            l.continue_if(odd);
            k.when(!odd).exit();
            k.to(i).when(odd).mov(7);
            let stop = k.mov::<Pred>(false);
            k.to(stop).or_pred(stop, odd);
            l.break_if(k.not_pred(stop));
        });
    });
    check("control_flow.ptx", &text);
}

/// Dynamic shared memory, constants, a tensor map, a cluster, a pipeline.
#[test]
fn hopper() {
    let mut module = Module::new(Target::Sm90a);
    let bytes = module.kernel("gemm", |k| {
        k.reqntid([128, 1, 1]);
        k.maxnreg(168);
        k.reqnctapercluster([2, 1, 1]);
        let map = k.param_tensor_map("map");
        let out = k.param_ptr("out");
        let batch = k.param_block("batch", 8, 64);
        let table = k.constants("table", &[0, 1.0f32.to_bits(), u32::MAX]);
        let mut shared = k.dynamic_shared(1024);
        let full = shared.array_aligned::<B64>(2, 8);
        let tile = shared.array_aligned::<B16>(64 * 64, 1024);

        k.if_then(k.setp_eq_u32(k.tid_x(), 0), || {
            k.prefetch_tensormap(map);
            k.mbarrier_init(full.at(0), 1);
            k.fence_mbarrier_init_release_cluster();
        });
        k.barrier_cluster_arrive();
        k.barrier_cluster_wait();
        let zero = k.ld_param::<B32>(k.element(batch, k.ctaid_y(), 4));
        k.if_then(k.elect(u32::MAX).1, || {
            k.mbarrier_arrive_expect_tx(full.at(0), 64 * 64 * 2);
            k.cp_async_bulk_tensor_2d_load(tile.ptr(k), map.tile([zero, zero]), full.at(0));
        });
        k.mbarrier_wait_parity(full.at(0), 0);
        let acc: [Reg<F32>; 32] = k.splat(k.ld_const::<F32>(table.at(4)));
        let a = k.matrix_descriptor(tile.ptr(k), 16, 1024, Swizzle::Bytes128);
        let b = k.descriptor_at(a, 32);
        k.wgmma_fence();
        let accumulate = k.setp_ne_u32(zero, 0);
        k.wgmma_f32_bf16_ss(acc, (a, Reading::K_MAJOR), (b, Reading::MN_MAJOR), accumulate);
        k.wgmma_commit_group();
        k.wgmma_wait_group(0);
        k.st_global::<[F32; 4]>(out.at(-16), [acc[0], acc[1], acc[2], acc[3]]);
        shared.bytes()
    });
    assert_eq!(bytes, 1024 + 64 * 64 * 2);
    check("hopper.ptx", &module.to_ptx().unwrap());
}

/// One line a form, as it prints.
#[test]
fn forms() {
    let mut text = String::new();
    for form in ptx_asm::forms() {
        let ptx = kernel(form.needs.target(), |k| (form.sample)(k, Operands::Registers));
        let body = ptx.split_once('{').unwrap().1.rsplit_once("ret;").unwrap().0;
        for line in body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(".reg")) {
            writeln!(text, "{line}").unwrap();
        }
    }
    check("forms.txt", &text);
}
