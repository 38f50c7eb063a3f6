//! Tensor maps, swizzles and wgmma.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use std::ffi::c_void;
use std::fmt::Write as _;
use std::ptr::{from_ref, null_mut};

use common::{Gpu, check};
use cudarc::driver::sys;
use half::bf16;
use ptx_sim::{Fault, FaultKind};

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Map([u64; 16]);

// cuda-12000's bindings have the function; its enums are plain numbers in C.
type Encode = unsafe extern "C" fn(
    *mut Map,
    u32,
    u32,
    *mut c_void,
    *const u64,
    *const u64,
    *const u32,
    *const u32,
    u32,
    u32,
    u32,
    u32,
) -> u32;

/// A row-major matrix of bf16 in tiles.
fn encode(address: u64, rows: u64, cols: u64, tile: [u32; 2], swizzle: u32) -> Result<Map, u32> {
    let name = c"cuTensorMapEncodeTiled";
    let mut map = Map([0; 16]);
    // SAFETY: the simulator is loaded under this name, and the function is what its documentation says.
    let result = unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOW);
        let encode: Encode = std::mem::transmute(libc::dlsym(library, name.as_ptr()));
        let (dims, strides, ones) = ([cols, rows], [2 * cols], [1u32; 2]);
        let (dims, strides) = (dims.as_ptr(), strides.as_ptr());
        encode(
            &mut map,
            9,
            2,
            address as *mut c_void,
            dims,
            strides,
            tile.as_ptr(),
            ones.as_ptr(),
            0,
            swizzle,
            0,
            0,
        )
    };
    if result == 0 { Ok(map) } else { Err(result) }
}

fn launch(gpu: &Gpu, ptx: &str, shared: u32, threads: u32, maps: &[Map], out: u64) -> Result<(), Fault> {
    let function = gpu.function(ptx, "k");
    let mut params: Vec<*mut c_void> = maps.iter().map(|map| from_ref(map).cast_mut().cast()).collect();
    params.push(from_ref(&out).cast_mut().cast());
    unsafe {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        check(sys::cuFuncSetAttribute(function, attribute, shared as i32));
        check(sys::cuLaunchKernel(
            function,
            1,
            1,
            1,
            threads,
            1,
            1,
            shared,
            null_mut(),
            params.as_mut_ptr(),
            null_mut(),
        ));
        match sys::cuCtxSynchronize() {
            sys::CUresult::CUDA_SUCCESS => Ok(()),
            _ => {
                let fault = ptx_sim::last_fault().unwrap();
                ptx_sim::clear_faults();
                Err(fault)
            }
        }
    }
}

/// Copies one tile in and dumps shared memory, then stores the tile to another place of the tensor.
fn copy_kernel(bytes: u32) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n
        .extern .shared .align 1024 .b8 tile[];
        .visible .entry k(.param .align 64 .b8 map[128], .param .u64 out)\n{{
        .reg .pred %p<4>; .reg .b32 %r<32>; .reg .b64 %rd<16>;
        .shared .align 8 .b8 full[8];
        mov.b64 %rd0, map; cvta.param.u64 %rd1, %rd0;
        mov.u32 %r0, %tid.x; mov.u32 %r1, tile; mov.u32 %r2, full; setp.ne.u32 %p0, %r0, 0;
        @%p0 bra READY;
        mbarrier.init.shared.b64 [%r2], 1; fence.mbarrier_init.release.cluster;
        mbarrier.arrive.expect_tx.shared.b64 _, [%r2], {bytes};
        mov.u32 %r3, 8; mov.u32 %r4, -2;
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {{%r3, %r4}}], [%r2];
    READY:
        bar.sync 0;
    WAIT:
        mbarrier.try_wait.parity.shared.b64 %p1, [%r2], 0;
        @!%p1 bra WAIT;
        ld.param.u64 %rd2, [out]; mov.u32 %r5, %r0;
    DUMP:
        shl.b32 %r6, %r5, 2; add.u32 %r7, %r1, %r6; ld.shared.u32 %r8, [%r7];
        cvt.u64.u32 %rd3, %r6; add.u64 %rd3, %rd2, %rd3; st.global.u32 [%rd3], %r8;
        add.u32 %r5, %r5, 32; setp.lt.u32 %p2, %r5, {words}; @%p2 bra DUMP;
        @%p0 bra DONE;
        mov.u32 %r3, 32; mov.u32 %r4, 10;
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd1, {{%r3, %r4}}], [%r1];
        cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;
    DONE:
        ret;\n}}\n",
        words = bytes / 4
    )
}

#[test]
fn tiles_and_swizzles() {
    let gpu = Gpu::new();
    let (rows, cols) = (16usize, 64usize);
    for (swizzle, width) in [(0, 32u32), (1, 16), (2, 32), (3, 64)] {
        let data: Vec<u16> = (0..rows * cols).map(|i| i as u16 + 1).collect();
        let tensor = gpu.upload(&data);
        let map = encode(tensor, rows as u64, cols as u64, [width, 8], swizzle).unwrap();
        let bytes = width * 8 * 2;
        let out = gpu.alloc(bytes as usize);
        launch(&gpu, &copy_kernel(bytes), bytes, 32, &[map], out).unwrap_or_else(|fault| panic!("{fault}"));
        let dump: Vec<u16> = gpu.download(out, bytes as usize / 2);
        let mut expected = data.clone();
        for row in 0..8usize {
            for col in 0..width as usize {
                // Rows −2 and −1 and columns from 64 on are outside: zeros.
                let inside = row >= 2 && col + 8 < cols;
                let value = if inside { data[(row - 2) * cols + col + 8] } else { 0 };
                // The tables of §5.5.7: chunk c of the 128-byte line l goes to c xor l, as far as the mode has bits.
                let chunk = (row * width as usize + col) / 8;
                let mask = [0, 1, 3, 7][swizzle as usize];
                let at = (chunk ^ ((chunk / 8) & mask)) * 8 + col % 8;
                assert_eq!(dump[at], value, "swizzle {swizzle} row {row} col {col}");
                if 32 + col < cols && 10 + row < rows {
                    expected[(10 + row) * cols + 32 + col] = value;
                }
            }
        }
        assert_eq!(gpu.download::<u16>(tensor, rows * cols), expected, "stored with swizzle {swizzle}");
    }
    // An offset in `.param` space is no generic address.
    let map = encode(gpu.upload(&[0u16; 1024]), 16, 64, [32, 8], 0).unwrap();
    let raw = copy_kernel(512).replace("cvta.param.u64 %rd1, %rd0;", "mov.b64 %rd1, %rd0;");
    let config = ptx_sim::Config { print_faults: false, ..ptx_sim::config() };
    ptx_sim::configure(&config);
    let fault = launch(&gpu, &raw, 512, 32, &[map], gpu.alloc(512)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutOfBounds, "{fault}");
}

#[test]
fn maps_that_are_none() {
    let gpu = Gpu::new();
    assert_eq!(encode(gpu.alloc(4096), 16, 64, [128, 8], 3).err(), Some(1), "a row wider than the swizzle");
    assert_eq!(
        encode(gpu.alloc(4096), 16, 60, [32, 8], 3).err(),
        Some(1),
        "a stride that is no multiple of 16"
    );
}

/// D = A·Bᵀ with A 64×64 and B 64×64 (rows of K), both in swizzled tiles; or B as K×N, by its transposed form.
fn product_kernel(transposed: bool) -> String {
    let list = |first: usize, count: usize| {
        let names: Vec<String> = (first..first + count).map(|k| format!("%f{k}")).collect();
        names.join(", ")
    };
    let mut text = String::from(
        ".version 8.0\n.target sm_90a\n.address_size 64\n
        .extern .shared .align 1024 .b8 tiles[];
        .visible .entry k(.param .align 64 .b8 mapa[128], .param .align 64 .b8 mapb[128], .param .u64 out)\n{
        .reg .pred %p<4>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<32>;
        .shared .align 8 .b8 full[8];
        mov.b64 %rd0, mapa; cvta.param.u64 %rd1, %rd0; mov.b64 %rd0, mapb; cvta.param.u64 %rd2, %rd0;
        mov.u32 %r0, %tid.x; mov.u32 %r1, tiles; mov.u32 %r2, full; setp.ne.u32 %p0, %r0, 0;
        @%p0 bra READY;
        mbarrier.init.shared.b64 [%r2], 1; fence.mbarrier_init.release.cluster;
        mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 16384;
        mov.u32 %r3, 0; add.u32 %r4, %r1, 8192;
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r3, %r3}], [%r2];
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r4], [%rd2, {%r3, %r3}], [%r2];
    READY:
        bar.sync 0;
    WAIT:
        mbarrier.try_wait.parity.shared.b64 %p1, [%r2], 0;
        @!%p1 bra WAIT;
        cvt.u64.u32 %rd3, %r1; shr.u64 %rd3, %rd3, 4; or.b64 %rd4, %rd3, 0x4000004000010000; // A: 128-byte swizzle, stride 1024\n",
    );
    writeln!(text, "add.u64 %rd5, %rd4, 512; // B").unwrap();
    for k in 0..32 {
        writeln!(text, "mov.f32 %f{k}, 0f3F800000;").unwrap();
    }
    text.push_str("setp.eq.u32 %p2, %r0, %r0;\nwgmma.fence.sync.aligned; // registers\n");
    for k in 0..4 {
        // 16 elements of K further: 32 bytes along a row, or two groups of 8 rows.
        let step_b = if transposed { 128 } else { 2 };
        writeln!(
            text,
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{}}}, %rd4, %rd5, %p2, 1, 1, 0, {};\n\
             add.u64 %rd4, %rd4, 2; add.u64 %rd5, %rd5, {step_b}; // {k}",
            list(0, 32),
            u32::from(transposed)
        )
        .unwrap();
    }
    text.push_str(
        "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0; // product
        ld.param.u64 %rd6, [out]; shr.u32 %r5, %r0, 5; and.b32 %r6, %r0, 31; shr.u32 %r7, %r6, 2; and.b32 %r8, %r6, 3;
        shl.b32 %r5, %r5, 4; add.u32 %r5, %r5, %r7; shl.b32 %r5, %r5, 8; shl.b32 %r8, %r8, 3; add.u32 %r5, %r5, %r8;
        cvt.u64.u32 %rd7, %r5; add.u64 %rd6, %rd6, %rd7;\n",
    );
    for j in 0..8 {
        writeln!(text, "st.global.v2.f32 [%rd6+{}], {{%f{}, %f{}}};", 32 * j, 4 * j, 4 * j + 1).unwrap();
        writeln!(text, "st.global.v2.f32 [%rd6+{}], {{%f{}, %f{}}};", 2048 + 32 * j, 4 * j + 2, 4 * j + 3)
            .unwrap();
    }
    text.push_str("ret;\n}\n");
    text
}

fn product(ptx: &str, transposed: bool) -> Result<bool, Fault> {
    let gpu = Gpu::new();
    let a: Vec<bf16> = (0..4096).map(|i| bf16::from_f32((i * 7 % 23) as f32 / 4.0 - 2.0)).collect();
    let b: Vec<bf16> = (0..4096).map(|i| bf16::from_f32((i * 5 % 19) as f32 / 2.0 - 4.0)).collect();
    let map = |data: &[bf16]| encode(gpu.upload(data), 64, 64, [64, 64], 3).unwrap();
    let out = gpu.upload(&vec![0f32; 4096]);
    launch(&gpu, ptx, 16384, 128, &[map(&a), map(&b)], out)?;
    let result: Vec<f32> = gpu.download(out, 4096);
    Ok((0..4096).all(|i| {
        let (row, col) = (i / 64, i % 64);
        let b = |k: usize| b[if transposed { k * 64 + col } else { col * 64 + k }].to_f32();
        result[i] == 1.0 + (0..64).map(|k| a[row * 64 + k].to_f32() * b(k)).sum::<f32>()
    }))
}

#[test]
fn warpgroup_products() {
    ptx_sim::install_simulator();
    let good = product_kernel(false);
    assert_eq!(product(&good, false), Ok(true));
    assert_eq!(product(&product_kernel(true), true), Ok(true));
    let edits = [
        ("fence removed", "wgmma.fence.sync.aligned; // registers", "", FaultKind::MissingWait),
        ("wait removed", "wgmma.wait_group.sync.aligned 0; // product", "", FaultKind::MissingWait),
        ("commit removed", "wgmma.commit_group.sync.aligned;", "", FaultKind::MissingWait),
        (
            "register used in between",
            "add.u64 %rd4, %rd4, 2; add.u64 %rd5, %rd5, 2; // 1",
            "add.u64 %rd4, %rd4, 2; add.u64 %rd5, %rd5, 2; mov.f32 %f3, 0f00000000;",
            FaultKind::MissingWait,
        ),
        ("copy not waited for", "@!%p1 bra WAIT;", "", FaultKind::MissingWait),
        (
            "written by hand",
            "cvt.u64.u32 %rd3, %r1; shr",
            "shl.b32 %r9, %r0, 2; add.u32 %r9, %r1, %r9; st.shared.u32 [%r9], 0; bar.sync 0; cvt.u64.u32 %rd3, %r1; shr",
            FaultKind::MissingProxyFence,
        ),
        (
            "descriptor beyond the end",
            "add.u64 %rd5, %rd4, 512; // B",
            "add.u64 %rd5, %rd4, 1024;",
            FaultKind::OutOfBounds,
        ),
        (
            "a warp left out",
            "wgmma.fence.sync.aligned; // registers",
            "setp.lt.u32 %p3, %r0, 16; @%p3 exit; wgmma.fence.sync.aligned;",
            FaultKind::Divergence,
        ),
        (
            "coordinates beyond the tensor",
            "mov.u32 %r3, 0; add",
            "mov.u32 %r3, 0; mov.b64 %rd1, 4096; add",
            FaultKind::OutOfBounds,
        ),
    ];
    for (name, from, to, kind) in edits {
        assert_eq!(good.matches(from).count(), 1, "{name}");
        match product(&good.replace(from, to), false) {
            Ok(_) => panic!("{name}: not caught"),
            Err(fault) => assert_eq!(fault.kind, kind, "{name}: {fault}"),
        }
    }
    let fenced = good.replace(
        "cvt.u64.u32 %rd3, %r1; shr",
        "shl.b32 %r9, %r0, 2; add.u32 %r9, %r1, %r9; ld.shared.u32 %r10, [%r9]; bar.sync 0; st.shared.u32 [%r9], %r10; \
         fence.proxy.async; bar.sync 0; cvt.u64.u32 %rd3, %r1; shr",
    );
    assert_eq!(product(&fenced, false), Ok(true));
}
