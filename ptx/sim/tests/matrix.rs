//! `mma`, `ldmatrix`, `stmatrix` and `movmatrix` against plain products, with the fragment layouts of the manual.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::vectors::Random;
use common::{Gpu, kernel, shape};
use half::{bf16, f16};

/// An element type: how the manual spreads a fragment's elements, and how numbers are written.
struct Kind {
    name: &'static str,
    bits: usize,
    encode: fn(f64) -> u32,
}

const F16: Kind = Kind { name: "f16", bits: 16, encode: |x| f16::from_f64(x).to_bits().into() };
const BF16: Kind = Kind { name: "bf16", bits: 16, encode: |x| bf16::from_f64(x).to_bits().into() };
const TF32: Kind = Kind { name: "tf32", bits: 32, encode: |x| (x as f32).to_bits() };
const S8: Kind = Kind { name: "s8", bits: 8, encode: |x| u32::from(x as i8 as u8) };
const U8: Kind = Kind { name: "u8", bits: 8, encode: |x| u32::from(x as u8) };

/// Small numbers only: sign, then 2^(e − 7)·(1 + m/8) for halves and integers up to 4.
const E4M3: Kind = Kind {
    name: "e4m3",
    bits: 8,
    encode: |x| {
        let magnitude = (0..127u32).find(|code| {
            let (e, m) = (code >> 3, code & 7);
            f64::from(8 + m) * 2f64.powi(e as i32 - 10) == x.abs() && e > 0
        });
        magnitude.unwrap_or(0) | u32::from(x < 0.0) << 7
    },
};

/// Element `i` of A in a thread: row and column (§9.7.14.5.7 and after; `per` elements in a register).
fn a_place(lane: usize, i: usize, per: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane & 3);
    let row = if (i / per).is_multiple_of(2) { group } else { group + 8 };
    let col = thread * per + i % per + if i < 2 * per { 0 } else { 4 * per };
    (row, col)
}

fn b_place(lane: usize, i: usize, per: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane & 3);
    (thread * per + i % per + if i < per { 0 } else { 4 * per }, group)
}

fn c_place(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane & 3);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

/// Registers of all lanes, register after register.
fn pack(kind: &Kind, registers: usize, value: impl Fn(usize, usize) -> f64) -> Vec<u32> {
    let per = 32 / kind.bits;
    let word = |q: usize, lane: usize| {
        (0..per).fold(0, |word, k| word | (kind.encode)(value(lane, q * per + k)) << (kind.bits * k))
    };
    (0..registers).flat_map(|q| (0..32).map(move |lane| (q, lane))).map(|(q, lane)| word(q, lane)).collect()
}

fn product(m: usize, k: usize, a_kind: &Kind, b_kind: &Kind, acc: &str, target: &str) {
    let n = 8;
    let per = 32 / a_kind.bits;
    let mut random = Random(7);
    let integer = acc == "s32";
    let mut number = |kind: &Kind| {
        let low = if kind.name == "s8" { -128.0 } else { 0.0 };
        match integer {
            true => (random.next() % 256) as f64 + low,
            // Small integers and halves: exact in every format, and so are their sums.
            false => (random.next() % 17) as f64 / 2.0 - 4.0,
        }
    };
    let a: Vec<f64> = (0..m * k).map(|_| number(a_kind)).collect();
    let b: Vec<f64> = (0..k * n).map(|_| number(b_kind)).collect();
    let c: Vec<f64> = (0..m * n).map(|i| i as f64).collect();
    let (na, nb) = (m * k / 32 / per, k * n / 32 / per);
    let nc = if acc == "f16" { m * n / 64 } else { m * n / 32 };
    let c_kind = match acc {
        "f16" => F16,
        "s32" => Kind { name: "s32", bits: 32, encode: |x| x as i32 as u32 },
        _ => Kind { name: "f32", bits: 32, encode: |x| (x as f32).to_bits() },
    };
    let mut words = pack(a_kind, na, |lane, i| {
        let (row, col) = a_place(lane, i, per);
        a[row * k + col]
    });
    words.extend(pack(b_kind, nb, |lane, i| {
        let (row, col) = b_place(lane, i, per);
        b[row * n + col]
    }));
    words.extend(pack(&c_kind, nc, |lane, i| {
        let (row, col) = c_place(lane, i);
        c[row * n + col]
    }));
    let list = |first: usize, count: usize| {
        let names: Vec<String> = (first..first + count).map(|r| format!("%r{r}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let mut body = String::from(
        "ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; mov.u32 %r0, %laneid;
        mul.wide.u32 %rd2, %r0, 4; add.u64 %rd0, %rd0, %rd2; add.u64 %rd1, %rd1, %rd2;\n",
    );
    for q in 0..na + nb + nc {
        body += &format!("ld.global.u32 %r{}, [%rd0+{}];\n", 10 + q, 128 * q);
    }
    body += &format!(
        "mma.sync.aligned.m{m}n{n}k{k}.row.col.{acc}.{}.{}.{acc} {}, {}, {}, {};\n",
        a_kind.name,
        b_kind.name,
        list(40, nc),
        list(10, na),
        list(10 + na, nb),
        list(10 + na + nb, nc)
    );
    for q in 0..nc {
        body += &format!("st.global.u32 [%rd1+{}], %r{};\n", 128 * q, 40 + q);
    }
    let gpu = Gpu::new();
    let version = if target == "sm_89" { "8.4" } else { "7.0" };
    let text = kernel(target, version, 2, &body);
    let text = if acc == "f32" { with_float_fragments(&text, na + nb, nc) } else { text };
    let function = gpu.function(&text, "k");
    let (input, output) = (gpu.upload(&words), gpu.alloc(128 * nc));
    gpu.launch(function, shape(1, 32), &[input, output]);
    let expected = pack(&c_kind, nc, |lane, i| {
        let (row, col) = c_place(lane, i);
        c[row * n + col] + (0..k).map(|j| a[row * k + j] * b[j * n + col]).sum::<f64>()
    });
    assert_eq!(
        gpu.download::<u32>(output, 32 * nc),
        expected,
        "m{m}n{n}k{k} {} {} {acc}",
        a_kind.name,
        b_kind.name
    );
}

/// ptxas wants .f32 registers for f32 accumulators.
fn with_float_fragments(text: &str, before: usize, count: usize) -> String {
    let mut text = text.to_owned();
    let start = text.find("mma.sync").unwrap();
    let end = start + text[start..].find(';').unwrap() + 1;
    let mut mma = text[start..end].to_owned();
    let (mut load, mut store) = (String::new(), String::new());
    for q in 0..count {
        let (d, c) = (40 + q, 10 + before + q);
        mma = mma
            .replace(&format!("%r{d}"), &format!("%f{}", 10 + q))
            .replace(&format!("%r{c}"), &format!("%f{}", 20 + q));
        load += &format!("mov.b32 %f{}, %r{c};\n", 20 + q);
        store += &format!("mov.b32 %r{d}, %f{};\n", 10 + q);
    }
    text.replace_range(start..end, &format!("{load}{mma}\n{store}"));
    text
}

#[test]
fn products() {
    product(16, 8, &F16, &F16, "f32", "sm_80");
    product(16, 16, &F16, &F16, "f32", "sm_80");
    product(16, 8, &F16, &F16, "f16", "sm_80");
    product(16, 16, &F16, &F16, "f16", "sm_80");
    product(16, 8, &BF16, &BF16, "f32", "sm_80");
    product(16, 16, &BF16, &BF16, "f32", "sm_80");
    product(16, 4, &TF32, &TF32, "f32", "sm_80");
    product(16, 8, &TF32, &TF32, "f32", "sm_80");
    product(8, 16, &S8, &S8, "s32", "sm_80");
    product(16, 16, &S8, &U8, "s32", "sm_80");
    product(16, 32, &S8, &S8, "s32", "sm_80");
    product(16, 32, &U8, &S8, "s32", "sm_80");
    product(16, 32, &E4M3, &E4M3, "f32", "sm_89");
}

/// C = A·B with A 16×16 and B 16×8, both row-major bf16 in shared memory, fetched by ldmatrix.
#[test]
fn matrices_from_shared_memory() {
    let body = "
        .shared .align 16 .b8 s[768];
        ld.param.u64 %rd0, [p0]; ld.param.u64 %rd1, [p1]; mov.u32 %r0, %laneid; mov.u32 %r1, s;
        mul.wide.u32 %rd2, %r0, 24; add.u64 %rd0, %rd0, %rd2; mul.lo.u32 %r2, %r0, 24; add.u32 %r2, %r1, %r2;
        ld.global.v2.u32 {%r3, %r4}, [%rd0]; st.shared.v2.u32 [%r2], {%r3, %r4};
        ld.global.v2.u32 {%r3, %r4}, [%rd0+8]; st.shared.v2.u32 [%r2+8], {%r3, %r4};
        ld.global.v2.u32 {%r3, %r4}, [%rd0+16]; st.shared.v2.u32 [%r2+16], {%r3, %r4};
        bar.warp.sync -1;
        and.b32 %r5, %r0, 15; shr.u32 %r6, %r0, 4; shl.b32 %r7, %r5, 5; shl.b32 %r8, %r6, 4;
        add.u32 %r9, %r1, %r7; add.u32 %r9, %r9, %r8;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r9];
        shl.b32 %r7, %r5, 4; add.u32 %r9, %r1, %r7;
        ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r14, %r15}, [%r9+512];
        mov.f32 %f0, 0f00000000;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f0, %f0, %f0, %f0};
        shr.u32 %r20, %r0, 2; and.b32 %r21, %r0, 3; shl.b32 %r20, %r20, 5; shl.b32 %r21, %r21, 3; add.u32 %r20, %r20, %r21;
        cvt.u64.u32 %rd3, %r20; add.u64 %rd1, %rd1, %rd3;
        st.global.v2.f32 [%rd1], {%f1, %f2};
        st.global.v2.f32 [%rd1+256], {%f3, %f4};";
    let number = |i: usize| (i * 37 % 31) as f32 / 4.0 - 3.0;
    let data: Vec<bf16> = (0..384).map(|i| bf16::from_f32(number(i))).collect();
    let gpu = Gpu::new();
    let function = gpu.function(&kernel("sm_80", "7.0", 2, body), "k");
    let (input, output) = (gpu.upload(&data), gpu.alloc(512));
    ptx_sim::reset_counters();
    gpu.launch(function, shape(1, 32), &[input, output]);
    let result: Vec<f32> = gpu.download(output, 128);
    for row in 0..16 {
        for col in 0..8 {
            let exact: f32 = (0..16).map(|k| number(row * 16 + k) * number(256 + k * 8 + col)).sum();
            assert_eq!(result[row * 8 + col], exact, "row {row} col {col}");
        }
    }
    // Rows of A are 32 bytes apart: of eight, two share each bank; four matrices, each one wavefront too many. Rows of B are
    // 16 bytes apart: none do. The stores of 8 bytes, 24 apart, go without conflict.
    assert_eq!(ptx_sim::counters().total().bank_conflicts, 4);
}

#[test]
fn transposed_fragments() {
    let body = "
        .shared .align 16 .b8 s[128];
        ld.param.u64 %rd1, [p1]; mov.u32 %r0, %laneid; mov.u32 %r1, s;
        shl.b32 %r2, %r0, 1; add.u32 %r3, %r2, 1; shl.b32 %r3, %r3, 16; or.b32 %r4, %r2, %r3;
        movmatrix.sync.aligned.m8n8.trans.b16 %r5, %r4;
        and.b32 %r6, %r0, 7; shl.b32 %r6, %r6, 4; add.u32 %r6, %r1, %r6;
        stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r6], {%r5};
        bar.warp.sync -1;
        shl.b32 %r7, %r0, 2; add.u32 %r7, %r1, %r7;
        ld.shared.u32 %r8, [%r7];
        mul.wide.u32 %rd2, %r0, 8; add.u64 %rd1, %rd1, %rd2;
        st.global.v2.u32 [%rd1], {%r5, %r8};";
    let gpu = Gpu::new();
    let function = gpu.function(&kernel("sm_90", "7.8", 2, body), "k");
    let output = gpu.alloc(256);
    gpu.launch(function, shape(1, 32), &[output, output]);
    let result: Vec<u32> = gpu.download(output, 64);
    for lane in 0..32u32 {
        // Element (i, j) is 8i + j; the transpose has 8j + i there. Stored transposed again it is the first once more.
        let (row, col) = (lane / 4, 2 * (lane % 4));
        assert_eq!(result[2 * lane as usize], (8 * (col + 1) + row) << 16 | (8 * col + row));
        assert_eq!(result[2 * lane as usize + 1], (8 * row + col + 1) << 16 | (8 * row + col));
    }
}
