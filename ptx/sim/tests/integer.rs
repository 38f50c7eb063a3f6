//! Integer, logic, comparison and data movement instructions against plain Rust.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::vectors::{check32, check64};

fn equal(a: u32, b: u32) -> bool {
    a == b
}

/// Byte permutation as the manual's table has it.
fn prmt(a: u32, b: u32, s: u32) -> u32 {
    let bytes: Vec<u8> = a.to_le_bytes().into_iter().chain(b.to_le_bytes()).collect();
    let pick = |k: u32| {
        let nibble = s >> (4 * k) & 15;
        let byte = bytes[(nibble & 7) as usize];
        if nibble < 8 {
            byte
        } else if byte >= 128 {
            255
        } else {
            0
        }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

#[test]
fn arithmetic() {
    check32(
        "sm_80",
        "7.6",
        &[
            ("add.u32 %r10, %r0, %r1;", |a, b, _| a.wrapping_add(b)),
            ("add.sat.s32 %r10, %r0, %r1;", |a, b, _| (a as i32).saturating_add(b as i32) as u32),
            ("sub.s32 %r10, %r0, %r1;", |a, b, _| a.wrapping_sub(b)),
            ("mul.lo.s32 %r10, %r0, %r1;", |a, b, _| a.wrapping_mul(b)),
            ("mul.hi.u32 %r10, %r0, %r1;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            ("mul.hi.s32 %r10, %r0, %r1;", |a, b, _| {
                ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
            }),
            ("mul.wide.u16 %r10, %h0, %h1;", |a, b, _| (a & 0xFFFF) * (b & 0xFFFF)),
            ("mul.wide.s16 %r10, %h0, %h1;", |a, b, _| (i32::from(a as i16) * i32::from(b as i16)) as u32),
            ("mad.lo.u32 %r10, %r0, %r1, %r2;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            ("mad.hi.s32 %r10, %r0, %r1, %r2;", |a, b, c| {
                (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c)
            }),
            ("mul24.lo.u32 %r10, %r0, %r1;", |a, b, _| (a & 0xFF_FFFF).wrapping_mul(b & 0xFF_FFFF)),
            ("sad.s32 %r10, %r0, %r1, %r2;", |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32))),
            ("or.b32 %r3, %r1, 1; div.u32 %r10, %r0, %r3;", |a, b, _| a / (b | 1)),
            ("or.b32 %r3, %r1, 2; rem.u32 %r10, %r0, %r3;", |a, b, _| a % (b | 2)),
            ("and.b32 %r3, %r1, 255; or.b32 %r3, %r3, 1; div.s32 %r10, %r0, %r3;", |a, b, _| {
                (a as i32 / (b as i32 & 255 | 1)) as u32
            }),
            ("min.s32 %r10, %r0, %r1;", |a, b, _| (a as i32).min(b as i32) as u32),
            ("max.u32 %r10, %r0, %r1;", |a, b, _| a.max(b)),
            ("abs.s32 %r10, %r0;", |a, _, _| (a as i32).wrapping_abs() as u32),
            ("neg.s32 %r10, %r0;", |a, _, _| (a as i32).wrapping_neg() as u32),
            ("popc.b32 %r10, %r0;", |a, _, _| a.count_ones()),
            ("clz.b32 %r10, %r0;", |a, _, _| a.leading_zeros()),
            ("brev.b32 %r10, %r0;", |a, _, _| a.reverse_bits()),
            ("bfind.u32 %r10, %r0;", |a, _, _| if a == 0 { u32::MAX } else { 31 - a.leading_zeros() }),
            ("bfind.shiftamt.u32 %r10, %r0;", |a, _, _| if a == 0 { u32::MAX } else { a.leading_zeros() }),
            ("bfind.s32 %r10, %r0;", |a, _, _| {
                let v = if a >> 31 == 1 { !a } else { a };
                if v == 0 { u32::MAX } else { 31 - v.leading_zeros() }
            }),
            ("bfe.u32 %r10, %r0, 5, 9;", |a, _, _| a >> 5 & 511),
            ("bfe.s32 %r10, %r0, 5, 9;", |a, _, _| ((a << 18) as i32 >> 23) as u32),
            ("bfe.u32 %r10, %r0, %r1, %r2;", |a, b, c| {
                let (at, len) = (b & 255, c & 255);
                (0..len.min(32)).filter(|k| at + k < 32 && a >> (at + k) & 1 == 1).fold(0, |v, k| v | 1 << k)
            }),
            ("bfi.b32 %r10, %r0, %r1, 7, 12;", |a, b, _| b & !(0xFFF << 7) | (a & 0xFFF) << 7),
            ("bfi.b32 %r10, %r0, %r1, %r2, 4;", |a, b, c| {
                let at = c & 255;
                (0..4).filter(|k| at + k < 32).fold(b, |v, k| v & !(1 << (at + k)) | (a >> k & 1) << (at + k))
            }),
            ("dp4a.s32.s32 %r10, %r0, %r1, %r2;", |a, b, c| {
                (0..4).fold(c, |c, k| {
                    c.wrapping_add((i32::from((a >> (8 * k)) as i8) * i32::from((b >> (8 * k)) as i8)) as u32)
                })
            }),
            ("dp4a.u32.s32 %r10, %r0, %r1, %r2;", |a, b, c| {
                (0..4).fold(c, |c, k| {
                    c.wrapping_add((i32::from((a >> (8 * k)) as u8) * i32::from((b >> (8 * k)) as i8)) as u32)
                })
            }),
            ("dp2a.hi.s32.u32 %r10, %r0, %r1, %r2;", |a, b, c| {
                let term = |k: u32| i32::from((a >> (16 * k)) as i16) * (b >> (16 + 8 * k) & 255) as i32;
                c.wrapping_add((term(0) + term(1)) as u32)
            }),
            ("set.lt.u32.s32 %r10, %r0, %r1;", |a, b, _| if (a as i32) < b as i32 { u32::MAX } else { 0 }),
            ("cvt.pack.sat.u8.s32.b32 %r10, %r0, %r1, %r2;", |a, b, c| {
                let clamp = |v: u32| (v as i32).clamp(0, 255) as u32;
                c << 16 | clamp(a) << 8 | clamp(b)
            }),
            ("cvt.pack.sat.s16.s32 %r10, %r0, %r1;", |a, b, _| {
                let clamp = |v: u32| u32::from((v as i32).clamp(-32768, 32767) as u16);
                clamp(a) << 16 | clamp(b)
            }),
            ("bmsk.clamp.b32 %r10, 3, 10;", |_, _, _| 0x3FF << 3),
            ("szext.wrap.s32 %r10, %r0, 8;", |a, _, _| a as i8 as u32),
            ("add.cc.u32 %r3, %r0, %r1; addc.u32 %r10, %r2, 0;", |a, b, c| {
                ((u64::from(c) << 32 | u64::from(a)).wrapping_add(u64::from(b)) >> 32) as u32
            }),
            ("sub.cc.u32 %r3, %r0, %r1; subc.u32 %r10, %r2, 0;", |a, b, c| {
                ((u64::from(c) << 32 | u64::from(a)).wrapping_sub(u64::from(b)) >> 32) as u32
            }),
            ("add.u16 %h3, %h0, %h1; cvt.u32.u16 %r10, %h3;", |a, b, _| a.wrapping_add(b) & 0xFFFF),
            ("min.s16 %h3, %h0, %h1; cvt.s32.s16 %r10, %h3;", |a, b, _| (a as i16).min(b as i16) as u32),
        ],
        equal,
    );
}

#[test]
fn logic_and_shifts() {
    check32(
        "sm_80",
        "7.0",
        &[
            ("and.b32 %r10, %r0, %r1;", |a, b, _| a & b),
            ("or.b32 %r10, %r0, 0xF0F0;", |a, _, _| a | 0xF0F0),
            ("xor.b32 %r10, %r0, -1;", |a, _, _| !a),
            ("not.b32 %r10, %r0;", |a, _, _| !a),
            ("cnot.b32 %r10, %r0;", |a, _, _| u32::from(a == 0)),
            ("shl.b32 %r10, %r0, %r1;", |a, b, _| if b > 31 { 0 } else { a << b }),
            ("shr.u32 %r10, %r0, %r1;", |a, b, _| if b > 31 { 0 } else { a >> b }),
            ("shr.s32 %r10, %r0, %r1;", |a, b, _| (a as i32 >> b.min(31)) as u32),
            ("shf.l.wrap.b32 %r10, %r0, %r1, %r2;", |a, b, c| {
                ((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32
            }),
            ("shf.r.clamp.b32 %r10, %r0, %r1, %r2;", |a, b, c| {
                ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32
            }),
            ("lop3.b32 %r10, %r0, %r1, %r2, 0xE8;", |a, b, c| a & b | a & c | b & c),
            ("lop3.b32 %r10, %r0, %r1, %r2, 0x96;", |a, b, c| a ^ b ^ c),
            ("lop3.b32 %r10, %r0, %r1, %r2, 0xCA;", |a, b, c| a & b | !a & c),
            ("prmt.b32 %r10, %r0, %r1, 0x5410;", |a, b, _| b << 16 | a & 0xFFFF),
            ("prmt.b32 %r10, %r0, %r1, %r2;", prmt),
            ("prmt.b32.f4e %r10, %r0, %r1, 1;", |a, b, _| a >> 8 | b << 24),
            ("prmt.b32.b4e %r10, %r0, %r1, 0;", |a, b, _| prmt(a, b, 0x5670)),
            ("prmt.b32.ecl %r10, %r0, %r1, %r2;", |a, b, c| {
                prmt(a, b, [0x3210, 0x3211, 0x3222, 0x3333][(c & 3) as usize])
            }),
            ("prmt.b32.rc16 %r10, %r0, %r1, %r2;", |a, b, c| {
                prmt(a, b, if c & 1 == 0 { 0x1010 } else { 0x3232 })
            }),
        ],
        equal,
    );
}

#[test]
fn predicates_and_moves() {
    check32(
        "sm_80",
        "7.0",
        &[
            ("setp.lt.s32 %p0, %r0, %r1; selp.b32 %r10, %r0, %r1, %p0;", |a, b, _| {
                (a as i32).min(b as i32) as u32
            }),
            ("setp.hs.u32 %p0, %r0, %r1; selp.u32 %r10, 1, 0, %p0;", |a, b, _| u32::from(a >= b)),
            (
                "setp.eq.b32 %p2, %r2, 0; setp.eq.or.b32 %p0|%p1, %r0, %r1, %p2; selp.b32 %r10, 1, 0, %p1;",
                |a, b, c| u32::from(a != b || c == 0),
            ),
            ("setp.gt.f32 %p0, %f0, %f1; selp.b32 %r10, 1, 0, %p0;", |a, b, _| {
                u32::from(f32::from_bits(a) > f32::from_bits(b))
            }),
            ("setp.neu.f32 %p0, %f0, %f1; selp.b32 %r10, 1, 0, %p0;", |a, b, _| {
                u32::from(f32::from_bits(a) != f32::from_bits(b))
            }),
            ("setp.ltu.f32 %p0, %f0, %f1; selp.b32 %r10, 1, 0, %p0;", |a, b, _| {
                u32::from(f32::from_bits(a).partial_cmp(&f32::from_bits(b)).is_none_or(|o| o.is_lt()))
            }),
            ("setp.num.f32 %p0, %f0, %f0; selp.b32 %r10, 1, 0, %p0;", |a, _, _| {
                u32::from(!f32::from_bits(a).is_nan())
            }),
            (
                "setp.lt.u32 %p0, %r0, %r1; setp.lt.and.u32 %p1, %r1, %r2, !%p0; selp.b32 %r10, 1, 0, %p1;",
                |a, b, c| u32::from(b < c && a >= b),
            ),
            ("mov.b32 {%h3, %h4}, %r0; mov.b32 %r10, {%h4, %h3};", |a, _, _| a.rotate_left(16)),
            ("mov.b64 %rd0, {%r0, %r1}; mov.b64 {%r3, %r10}, %rd0;", |_, b, _| b),
            (
                "mov.u32 %r10, 7; setp.eq.u32 %p0, %r0, 0; @%p0 mov.u32 %r10, 8; @!%p0 mov.u32 %r10, 9;",
                |a, _, _| {
                    if a == 0 { 8 } else { 9 }
                },
            ),
            ("slct.u32.s32 %r10, %r0, %r1, %r2;", |a, b, c| if c as i32 >= 0 { a } else { b }),
            (
                "mov.u32 %r10, 0; and.b32 %r3, %r0, 15; L0: setp.eq.u32 %p0, %r3, 0; @%p0 bra M0; add.u32 %r10, %r10, %r3; sub.u32 %r3, %r3, 1; bra L0; M0:",
                |a, _, _| (a & 15) * ((a & 15) + 1) / 2,
            ),
        ],
        equal,
    );
}

#[test]
fn wide() {
    check64(&[
        ("add.s64 %rd10, %rd0, %rd1;", |a, b, _| a.wrapping_add(b)),
        ("mul.lo.u64 %rd10, %rd0, %rd1;", |a, b, _| a.wrapping_mul(b)),
        ("mul.hi.u64 %rd10, %rd0, %rd1;", |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("mul.wide.u32 %rd10, %r0, %r1;", |a, b, _| u64::from(a as u32) * u64::from(b as u32)),
        ("mul.wide.s32 %rd10, %r0, %r1;", |a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64),
        ("mad.wide.u32 %rd10, %r0, %r1, %rd2;", |a, b, c| {
            (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)
        }),
        ("mad.lo.s64 %rd10, %rd0, %rd1, %rd2;", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("shl.b64 %rd10, %rd0, %r1;", |a, b, _| a.checked_shl(b as u32).unwrap_or(0)),
        ("shr.s64 %rd10, %rd0, %r1;", |a, b, _| (a as i64 >> (b as u32).min(63)) as u64),
        ("and.b64 %rd10, %rd0, %rd1;", |a, b, _| a & b),
        ("bfe.u64 %rd10, %rd0, 20, 30;", |a, _, _| a >> 20 & ((1 << 30) - 1)),
        ("bfi.b64 %rd10, %rd0, %rd1, 40, 16;", |a, b, _| b & !(0xFFFF << 40) | (a & 0xFFFF) << 40),
        ("clz.b64 %r3, %rd0; cvt.u64.u32 %rd10, %r3;", |a, _, _| a.leading_zeros().into()),
        ("popc.b64 %r3, %rd0; cvt.u64.u32 %rd10, %r3;", |a, _, _| a.count_ones().into()),
        ("setp.lt.s64 %p0, %rd0, %rd1; selp.b64 %rd10, %rd0, %rd1, %p0;", |a, b, _| {
            (a as i64).min(b as i64) as u64
        }),
        ("cvt.s64.s32 %rd10, %r0;", |a, _, _| a as i32 as u64),
        ("cvt.u64.u32 %rd10, %r0;", |a, _, _| a & 0xFFFF_FFFF),
        ("mov.b64 {%h3, %h4, %h5, %h6}, %rd0; mov.b64 %rd10, {%h6, %h5, %h4, %h3};", |a, _, _| {
            let [a, b, c, d] = [0, 16, 32, 48].map(|s| a >> s & 0xFFFF);
            a << 48 | b << 32 | c << 16 | d
        }),
        ("add.cc.u64 %rd3, %rd0, %rd1; addc.u64 %rd10, 0, 0;", |a, b, _| a.overflowing_add(b).1.into()),
        ("add.f64 %fd3, %fd0, %fd1; mov.b64 %rd10, %fd3;", |a, b, _| {
            let sum = f64::from_bits(a) + f64::from_bits(b);
            if sum.is_nan() { canonical(a, b) } else { sum.to_bits() }
        }),
    ]);
}

/// Which NaN an f64 operation returns is the machine's choice: take the same one.
fn canonical(a: u64, b: u64) -> u64 {
    (f64::from_bits(a) + f64::from_bits(b)).to_bits()
}
